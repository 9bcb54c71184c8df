"""Tasks for lm-evaluation-harness: ``lm_eval --include_path derta/tasks --tasks derta_exact_match …``."""
