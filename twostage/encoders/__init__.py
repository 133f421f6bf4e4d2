"""What embeds texts and sequences: branches of networks, with what turns values into inputs."""
