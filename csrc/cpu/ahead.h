// Fetching what will be read soon. Included inside the per-instruction-set namespaces.

// 64 rows of bytes at one distance, or nothing. They are fetched a few at a time while other rows are worked on: all at
// once they fill the queue to memory, and the processor waits for it instead of working.
struct Ahead {
    const char* at = nullptr;
    int64_t stride = 0, width = 0;

    void fetch(int row) const {
        if (!at) return;
        for (int64_t c = 0; c < width; c += 64) __builtin_prefetch(at + row * stride + c, 0, 2);
    }
};
