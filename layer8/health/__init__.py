"""Who is alive and how they are: death by pidfd, figures by psutil, and the directory of what is known."""
