"""What the supervisor keeps on disk beside its socket."""
