"""Every bound in one place, each with its unit and its reason. Nothing here is configuration."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# GGUF files come from strangers.
GGUF_HEADER_BYTES_MAX = (
    64 * MIB
)  # the largest known (256k-token vocabularies with merges) are about 17 MiB
GGUF_KEYS_MAX = 4096  # real files have under 100
GGUF_TENSORS_MAX = 65_536  # 128 blocks of 40 tensors are 5,120
GGUF_STRING_BYTES_MAX = 1 * MIB  # chat templates reach about 30 KiB
GGUF_ARRAY_ITEMS_MAX = 4_000_000  # merges of the largest vocabularies are about 500,000
GGUF_DIMENSIONS_MAX = 4  # ggml's own
BLOCKS_MAX = 512  # llama.cpp's own

MANIFEST_BYTES_MAX = 16 * MIB

# Sessions and batches.
BATCH_TOKENS_MAX = 512  # rows of one pass through a slice; llama.cpp's default micro-batch
SESSIONS_PER_WORKER_MAX = 64
SESSION_IDLE_S = 600.0  # a forgotten session gives its KV cells back after this long
QUEUE_REQUESTS_MAX = 64  # generations waiting for a free slot; one more is refused as busy
CONTEXT_TOKENS_DEFAULT = (
    4096  # users met 7.8 GB of KV with 131k defaults elsewhere; raise it by config
)

# Worker processes.
WORKER_START_TIMEOUT_S = 120.0  # loading a slice from a cold disk
WORKER_STEP_TIMEOUT_S = 300.0  # one batch through one slice
WORKER_STOP_TIMEOUT_S = 5.0
WORKER_TEXT_TIMEOUT_S = 10.0  # a chat template that loops is ended here
WORKER_RESTARTS_MAX = 5  # in a row, without a request in between
WORKER_BACKOFF_S = (0.1, 0.5, 2.0, 10.0, 30.0)
IPC_FRAME_BYTES_MAX = 1 * GIB
MEMORY_HEADROOM = 1.2  # 20 % over the sum of weights, KV and compute buffers

# HTTP.
BODY_BYTES_MAX = 8 * MIB
MESSAGES_MAX = 1024
STOPS_MAX = 16
STOP_BYTES_MAX = 256
LOGIT_BIAS_MAX = 1024
COMPLETIONS_N_MAX = 16
LOGPROBS_MAX = 20
MAX_TOKENS_MAX = 1_000_000
MODEL_NAME_CHARS_MAX = 256

# Worker processes' frames and text.
IPC_HEADER_BYTES_MAX = 8 * MIB  # a whole chat history as JSON, and then some
PROMPT_CHARS_MAX = 8 * MIB  # more text than any context holds; the body limit is the same
TRACEBACK_CHARS_MAX = 2000

# The model store.
EXPERTS_MAX = 1024  # llama.cpp's own
EMBEDDING_LENGTH_MAX = 65_536  # the widest known are 18,432
GGUF_KEY_BYTES_MAX = 65_535  # the format's own bound
COPY_CHUNK_BYTES = 8 * MIB  # read, hash and copy files of any size through a buffer of this size
MANIFEST_VALUE_BYTES_MAX = 64 * KIB  # a longer metadata value is bound by its digest, not carried
MODEL_SUGGESTIONS_MAX = 5  # near matches shown for an unknown model name
MODELS_LISTED_MAX = 10_000  # files of a models folder that are looked at
LOCK_TIMEOUT_S = 600.0  # another process cutting the same slice of a large model from a slow disk
LOCK_POLL_S = 0.05  # between two tries for a lock that another process holds

# Configuration and the command line.
CONFIG_BYTES_MAX = 1 * MIB  # config.yaml has a dozen short lines
SECRET_FILE_BYTES_MAX = 4 * KIB  # a file that holds one API key
PROMPT_BYTES_MAX = 8 * MIB  # a prompt read from standard input, as long as an HTTP body may be
LOG_BYTES_MAX = 8 * MIB  # of one log file; one older file is kept (a 6.9 GB log was met elsewhere)
LOG_VALUE_CHARS_MAX = 2_000  # of one logged value; the rest is cut off

# The model hub (downloads).
HUB_TIMEOUT_S = 30.0  # to connect, and for each read: a hub that is silent for longer is broken
HUB_ANSWER_TIMEOUT_S = 120.0  # a whole API answer; a file's body has the limit per read only
HUB_JSON_BYTES_MAX = 16 * MIB  # a listing of the largest repositories is about 2 MiB
HUB_TREE_PAGES_MAX = 20  # pages of 1,000 files
HUB_FILES_MAX = 20_000
HUB_FILE_BYTES_MAX = 4096 * GIB  # a sum beyond this is a lie
HUB_REDIRECTS_MAX = 5
HUB_ATTEMPTS_MAX = 5  # in a row without one more byte
HUB_RECONNECTS_MAX = 1000  # per file: nobody keeps us busy for ever with a byte per connection
HUB_BACKOFF_S_MAX = 30.0
HUB_RETRY_AFTER_S_MAX = 120.0  # a hub that asks for more patience is reported, not waited for
HUB_LOCK_TIMEOUT_S = 2.0  # another download of this file may last hours: say so instead of waiting
HUB_RESTARTS_MAX = 1  # a file that changed, or came out wrong, is fetched once more from its start
HUB_READ_BYTES = 256 * KIB  # one read from the socket
HUB_HEADER_PIECE_BYTES = 256 * KIB  # first piece of a GGUF header; doubled until it is whole
HUB_GAP_BYTES_MAX = 128 * KIB  # unwanted bytes between ranges that cost less than another request
HUB_STATE_SAVE_BYTES = 16 * MIB  # at most this much is fetched again after a kill
HUB_DISK_MARGIN_BYTES = 16 * MIB  # left free beside the file itself, for its records
TOKEN_BYTES_MAX = 4096

# The API's server.
API_KEY_CHARS_MIN = 16  # shorter keys can be guessed
JSON_DEPTH_MAX = 32  # the deepest body that is accepted has 5 levels
JSON_THREAD_BYTES = 128 * KIB  # larger bodies are parsed off the event loop
BODY_READ_TIMEOUT_S = 60.0  # the whole body; 8 MiB at 140 KB/s
LABEL_CHARS_MAX = 512  # `user` and its like: accepted, not used
METADATA_PAIRS_MAX = 16  # OpenAI's own
COMPLETION_TOKENS_DEFAULT = 16  # OpenAI's own, for /v1/completions without max_tokens
HTTP_HEADER_BYTES_MAX = 8 * KIB  # one header field, and the request line
HTTP_CONNECTIONS_MAX = 512  # half of the usual 1,024 file descriptors
HTTP_REQUESTS_MAX = 96  # in flight on the generating routes: the queue and what runs
HTTP_KEEPALIVE_S = 75.0  # an idle connection, and one that never sends its headers
HTTP_LINGER_S = 5.0  # drain a refused body, so that its sender reads the answer
HTTP_WRITE_TIMEOUT_S = 60.0  # a reader that stops reading holds a session no longer than this
HTTP_SHUTDOWN_GRACE_S = 10.0  # answers under way may end before the server goes
STREAM_EVENTS_MAX = 32  # undelivered pieces of one answer; then its generation waits for the reader

# Chat templates: programs that come with a stranger's model.
TEMPLATE_CHARS_MAX = 256 * KIB  # the largest known are about 30 KiB
TEMPLATE_OUTPUT_CHARS_MAX = BODY_BYTES_MAX  # a prompt, and every value on the way to it
TEMPLATE_WORK_CHARS_MAX = 128 * MIB  # all values together: 16 times the longest prompt
TEMPLATE_STEPS_MAX = 1_000_000  # turns of loops; a call is ten; 1,024 messages need some 100,000
TEMPLATE_DEPTH_MAX = 64  # nesting of a value that is printed
TEMPLATE_INTEGER_BITS_MAX = 4096
TEMPLATE_ERROR_CHARS_MAX = 300  # of a template's own words in our error

# Planning a run.
CONTEXT_TOKENS_MIN = 512  # for a file that does not say what it was trained with
WORKER_BASE_BYTES = (
    80 * MIB
)  # resident memory of a worker with a tiny model: Python, NumPy, llama.cpp

# Benchmarks.
BENCH_TOKENS_MAX = 100_000
BENCH_ROUNDS_MAX = 100

# Pruning the models directory.
SLICE_UNUSED_S = 30 * 24 * 3600.0  # a cut slice that nobody has asked for that long goes
LEFTOVER_AGE_S = 7 * 24 * 3600.0  # what a killed writer left, or what was set aside as corrupt

# Between nodes: control.
P2P_MESSAGE_BYTES_MAX = 256 * KIB  # one request or answer over libp2p; 256 records of 1 KiB
P2P_TIMEOUT_S = 10.0  # one request, dial or look-up
