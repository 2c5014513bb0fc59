"""The small GPT that ``orchard-ops train`` trains twice."""
