"""Every setting reaches what it sets: changed, it changes the result as its formula says."""
