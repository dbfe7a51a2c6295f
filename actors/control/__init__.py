"""What both protocols answer about the server itself, and the memory that clients share with it."""
