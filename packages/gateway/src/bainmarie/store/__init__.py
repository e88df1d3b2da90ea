"""What outlives the gateway's process: runs, their items, the journal of their calls, approvals."""
