"""Workers AI's routes: what the hosted model was asked by REST and by `env.AI`, and the catalogue around it."""
