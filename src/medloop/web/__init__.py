"""What every app in the browser needs: who may ask, where it listens, a guard in front of it."""
