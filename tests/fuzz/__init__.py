"""Every parser on damaged and hostile input, seeded: ``python -m tests.fuzz`` (``make fuzz``); a short form is tests/unit/test_fuzz.py."""
