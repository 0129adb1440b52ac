"""What a run needs, before any GPU hour is spent: `videomae plan CONFIG`."""
