"""The messages on the wire: .proto sources, what is generated from them, and how it is loaded."""
