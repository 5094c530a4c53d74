"""What a classification head says of texts, in batches that give the numbers of single texts."""
