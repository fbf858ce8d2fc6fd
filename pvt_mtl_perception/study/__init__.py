"""Many runs compared: jobs, statistics and the report."""
