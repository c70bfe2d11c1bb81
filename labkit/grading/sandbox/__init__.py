"""The grading sandbox: runs an untrusted notebook without network or other files, and limits its memory and time."""
