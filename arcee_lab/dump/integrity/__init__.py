"""Internal: verification and repair of stores."""
