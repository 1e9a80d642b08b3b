"""Every figure, and the colours and axes that figures are made of."""
