"""Work that nobody waits for: batch jobs, fed to the engine when there is room."""
