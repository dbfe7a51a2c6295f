"""What is counted and measured, and the pages that show it."""
