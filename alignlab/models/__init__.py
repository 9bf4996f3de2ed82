"""Reference networks by name; each is one module whose ``__all__`` holds one class."""
