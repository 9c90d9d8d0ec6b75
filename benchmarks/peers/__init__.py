"""Scripts of peers that are measured as whole processes: what a user of each would write for the same job."""
