"""From a checkout to a release: what is published is built, checked and described."""
