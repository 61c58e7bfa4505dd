"""What exits cost and save, measured, and the page that shows it.

Not called `report`: importing a room of that name would put the module where the function
`offramp.report` is.
"""
