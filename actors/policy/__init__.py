"""Decisions, purely: plain synchronous code that is told the time and says what to do."""
