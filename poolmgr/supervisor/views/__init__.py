"""The supervisor seen from outside: answers, metrics, the audit."""
