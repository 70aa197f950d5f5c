"""The equations of the paper, one pure function each, and the objective that composes them."""
