"""Optional programs that look at data, runs and speed; the core never imports them."""
