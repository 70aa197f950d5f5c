"""What searches the photos: the index on disk, exactly or through faiss, or a collection in Milvus."""
