"""Who may do what: origins, tokens, quotas, and the policy that routes ask."""
