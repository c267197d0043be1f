"""What PHANES costs, beside the published composition and other methods: `python -m scripts benchmark`."""
