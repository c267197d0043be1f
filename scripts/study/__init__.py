"""For people who compare methods: other systems, evaluation, benchmark."""
