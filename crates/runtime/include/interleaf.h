/*
 * Interleaf for C: one base model on a device, many LoRA adapters over it, contexts of many apps.
 *
 * The library is made of the crate `interleaf-runtime`, with its feature `c-api`:
 *
 *     cargo rustc --release -p interleaf-runtime --features c-api --crate-type staticlib,cdylib
 *
 * gives target/release/libinterleaf_runtime.a and .so (.dylib, .dll).
 *
 * RESULTS. A function that can fail returns an interleaf_status; INTERLEAF_OK is 0. What went wrong with the last call of a
 * thread that failed, in words that name what was expected, is interleaf_last_error(). Handles that a call that failed would have
 * given are NULL, and other results are left as they were. The numbers of statuses, kinds, reasons and states stay as they are;
 * later versions may add some.
 *
 * HANDLES are opaque, and are closed once each by the function named after them; NULL is closed without effect. They may be closed
 * in any order: what belongs to a service that was closed fails with INTERLEAF_STOPPED from then on.
 *
 * THREADS. Every function may be called from any thread, and for one handle from several threads at once, but for these two:
 * while a handle is being closed no other call uses it, and interleaf_poll and interleaf_answer_of of one generation are for one
 * thread at a time. No function calls back. interleaf_open reads a model and may take seconds; interleaf_poll waits as long as it
 * is told; interleaf_suspend_gpu waits until the GPU is done, and interleaf_close until calls under way have ended; functions that
 * ask the service wait at most for one step of the batch. None of them is for a thread that draws.
 *
 * STRINGS are UTF-8. Those that go in as `const char *` alone end with a NUL; those with a length may contain any character. Text
 * that comes out has a length and a NUL behind it. What goes in is copied before the function returns.
 *
 * STRUCTS begin with their size, by which old programs work with new libraries: set all of a struct to 0 and its size to its
 * sizeof, as INTERLEAF_INIT does, then the members that are wanted. In options 0 is the default of every member, and NULL in place
 * of the options is all defaults. Members that a library does not know have to be 0.
 */
#ifndef INTERLEAF_H
#define INTERLEAF_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Sets a struct to 0, and its member `size` to its size. */
#define INTERLEAF_INIT(object) \
    ((void)memset(&(object), 0, sizeof(object)), (void)((object).size = (uint32_t)sizeof(object)))

/* Grows by one with every change by which a program would have to be compiled again. */
#define INTERLEAF_ABI 1

/* ---- Results ---- */

typedef int32_t interleaf_status;
enum {
    INTERLEAF_OK = 0,
    /* A pointer is NULL that may not be, a string is no UTF-8, a number is none of its enum, a size is none of a struct. */
    INTERLEAF_INVALID_ARGUMENT = 1,
    /* An option is outside its range. */
    INTERLEAF_INVALID_OPTION = 2,
    /* A file of a model or adapter is not there, damaged or not supported. */
    INTERLEAF_MODEL_REFUSED = 3,
    /* The backend is not built in, or cannot do what is asked. */
    INTERLEAF_UNSUPPORTED = 4,
    /* The device or the host has no room. */
    INTERLEAF_OUT_OF_MEMORY = 5,
    /* The device is lost, or it or its driver failed. */
    INTERLEAF_DEVICE_FAILED = 6,
    /* The GPU is suspended. */
    INTERLEAF_GPU_SUSPENDED = 7,
    /* No adapter of that name is registered. */
    INTERLEAF_UNKNOWN_ADAPTER = 8,
    /* One of that name is. */
    INTERLEAF_DUPLICATE_ADAPTER = 9,
    /* More calls wait than may: call again once some have ended. */
    INTERLEAF_OVERLOADED = 10,
    /* The context is being called: one call at a time. */
    INTERLEAF_CONTEXT_BUSY = 11,
    /* The app has no such context: it was deleted, or is another app's, or another model's. */
    INTERLEAF_UNKNOWN_CONTEXT = 12,
    /* The context and the prompt are longer than fits. */
    INTERLEAF_CONTEXT_FULL = 13,
    /* The app was killed: set another state, then call again. */
    INTERLEAF_APP_KILLED = 14,
    /* More apps than there are places for. */
    INTERLEAF_TOO_MANY_APPS = 15,
    /* The model has no chat template. */
    INTERLEAF_NO_CHAT_TEMPLATE = 16,
    /* The model has no tokenizer. */
    INTERLEAF_NO_TOKENIZER = 17,
    /* The prompt has no tokens. */
    INTERLEAF_EMPTY_PROMPT = 18,
    /* The prompt has a token that the vocabulary has not. */
    INTERLEAF_UNKNOWN_TOKEN = 19,
    /* No token can be chosen: the weights are damaged, or all tokens are banned. */
    INTERLEAF_NOT_A_NUMBER = 20,
    /* A context's file cannot be read or written. */
    INTERLEAF_FILE_FAILED = 21,
    /* The system starts no thread. */
    INTERLEAF_NO_THREAD = 22,
    /* The service was closed, or its thread has ended. */
    INTERLEAF_STOPPED = 23,
    /* The call has not ended, so that there is no answer yet. */
    INTERLEAF_NOT_ENDED = 24,
    /* A buffer holds fewer elements than there are. */
    INTERLEAF_BUFFER_TOO_SMALL = 25,
    /* A fault of the library's. */
    INTERLEAF_INTERNAL = 26,
    /* The adapter's files were to be read for the call, and are gone, changed or damaged. */
    INTERLEAF_ADAPTER_NOT_LOADED = 27,
    /* The adapter was to be chosen, and there is no router. */
    INTERLEAF_NO_ROUTER = 28,
    /* What was to be opened or reserved does not fit into the memory budget; nothing was allocated for it. */
    INTERLEAF_DOES_NOT_FIT = 29,
    /* The process that loaded this model last, or reserved such a pool, ended while it did. */
    INTERLEAF_LAST_LOAD_FAILED = 30
};

/* INTERLEAF_ABI of the library: a program should refuse to go on with another than its own. */
uint32_t interleaf_abi(void);

/* The library's version, as "0.1.0". Never freed. */
const char *interleaf_version(void);

/* A status's name without its prefix, as "context_full"; "unknown" for a number that is none. Never freed. */
const char *interleaf_status_name(interleaf_status status);

/* What went wrong with the last call of this thread that failed; "" if none has. Until the next call of this thread that fails. */
const char *interleaf_last_error(void);

/* ---- The service ---- */

/* One base model that answers all apps, on a thread of its own. */
typedef struct interleaf_service interleaf_service;

/* What the model runs on. */
enum {
    /* The GPU where `interleaf doctor` found it right and faster than the CPU; else the CPU, which also takes over from a GPU that
       fails. */
    INTERLEAF_BACKEND_AUTO = 0,
    INTERLEAF_BACKEND_CPU = 1,
    INTERLEAF_BACKEND_GPU = 2,
    /* The plain reference: slow, the definition of right. */
    INTERLEAF_BACKEND_REFERENCE = 3
};

/* How base weights are kept. */
enum {
    /* As the files have them. */
    INTERLEAF_WEIGHTS_STORED = 0,
    INTERLEAF_WEIGHTS_F16 = 1,
    INTERLEAF_WEIGHTS_BF16 = 2,
    /* GGUF's Q8_0 and Q4_0: 8.5 and 4.5 bits a weight. */
    INTERLEAF_WEIGHTS_Q8 = 3,
    INTERLEAF_WEIGHTS_Q4 = 4
};

/* Bits of interleaf_open_options.flags. */
enum {
    /* Slow cores too, of a machine that has fast and slow ones. */
    INTERLEAF_OPEN_ALL_CORES = 1,
    /* Every prompt is computed from its first token on, whatever is cached of earlier ones. */
    INTERLEAF_OPEN_NO_PREFIX_CACHE = 2,
    /* What calls with a drift budget leave goes to rest in idle time, of adapters that were calibrated. */
    INTERLEAF_OPEN_AT_REST = 4,
    /* Nothing is done while nobody calls. */
    INTERLEAF_OPEN_NO_IDLE_WORK = 8,
    /* Adapters share the pool with KV pages: their weights are loaded from their folders when calls need them, and go when others need
       the room more. The folders stay where they are. Else all weights are in memory from when an adapter is registered. */
    INTERLEAF_OPEN_POOL_ADAPTERS = 16,
    /* What was being loaded when the last process that loaded it ended is loaded again; else that is refused, with
       INTERLEAF_LAST_LOAD_FAILED, so that an app that the system ends for the memory it takes does not begin the same again and
       again. */
    INTERLEAF_OPEN_RETRY_LOAD = 32
};

typedef struct interleaf_open_options {
    uint32_t size;
    /* INTERLEAF_BACKEND_... */
    int32_t backend;
    /* INTERLEAF_WEIGHTS_... */
    int32_t weights;
    /* INTERLEAF_OPEN_..., together. */
    uint32_t flags;
    /* Worker threads of the CPU; 0 for one per core, on machines with fast and slow ones per fast core. */
    uint32_t threads;
    /* The longest context, in tokens; 0 for 4096, or what the model allows if that is less. */
    uint32_t context_tokens;
    /* The pool of KV pages has room for so many contexts of full length; 0 for 4. */
    uint32_t pool_contexts;
    /* The most calls that are in the batch at one time, that may wait for a place in it, and of one app's; 0 for 16, 64, 16. */
    uint32_t most_under_way;
    uint32_t most_waiting;
    uint32_t most_waiting_of_app;
    /* What the cache may take of its pool, in bytes; 0 for all of it. interleaf_set_budget changes it. */
    uint64_t budget_bytes;
    /* A folder of the library's own, in which contexts outlive the process, for one service at a time; NULL to keep nothing. */
    const char *store_folder;
    /* A file of the store of at most so many bytes, in which chunks of contexts are written when a call returns, and from which they
       are read when memory has no longer had room for them; 0 for none. Needs a store, and not INTERLEAF_OPEN_AT_REST. */
    uint64_t swap_bytes;
    /* The most that may be held, in bytes: weights, adapters, the pool, activations, and what is on its way to the file below the
       pool and back. What cannot fit is refused before it is allocated, with INTERLEAF_DOES_NOT_FIT; 0 for no such bound. */
    uint64_t memory_budget_bytes;
} interleaf_open_options;

/* Opens the model of a Hugging Face folder and starts to serve. Contexts that the store has are there again. */
interleaf_status interleaf_open(const char *model_folder, const interleaf_open_options *options,
                                interleaf_service **service);

/* Stops: calls under way are cancelled, what they have is kept, and what was to be made durable is. Then frees the service. */
interleaf_status interleaf_close(interleaf_service *service);

typedef struct interleaf_restored {
    uint32_t size;
    /* Contexts whose file ended with what is no whole record, as after a crash; what was there before it is there again. */
    uint32_t cut;
    /* Contexts that are there again. */
    uint64_t contexts;
    /* Files that are no contexts, or damaged where they begin; and contexts of other models. Both stay as they are. */
    uint64_t unreadable;
    uint64_t of_other_models;
} interleaf_restored;

/* What was found in the store when the service was opened. */
interleaf_status interleaf_restored_contexts(const interleaf_service *service, interleaf_restored *restored);

typedef struct interleaf_adapter {
    uint32_t size;
    /* The largest rank of its factors. */
    uint32_t max_rank;
    /* Projections that it changes. */
    uint32_t sites;
    /* 1 for an activated LoRA, which acts from its invocation in a prompt on; else 0. */
    uint32_t activated;
    /* Bytes of its factors. */
    uint64_t bytes;
} interleaf_adapter;

/* Registers the PEFT adapter of a folder under a name, between two steps. `adapter` may be NULL. */
interleaf_status interleaf_register_adapter(const interleaf_service *service, const char *name, const char *folder,
                                            interleaf_adapter *adapter);

/* Registers the adapter of another folder under a name that there is: calls that were taken before keep the one they had, which goes with
   the last of them. INTERLEAF_UNKNOWN_ADAPTER if there is none of that name. `adapter` may be NULL. */
interleaf_status interleaf_replace_adapter(const interleaf_service *service, const char *name, const char *folder,
                                           interleaf_adapter *adapter);

/* Opens the file of a router (`interleaf router train`), by which adapters are chosen from now on for calls that leave that to it
   (route_among); NULL for the one that the store keeps for this model. */
interleaf_status interleaf_open_router(const interleaf_service *service, const char *file);

/* How much memory is wanted back. */
enum {
    /* TRIM_MEMORY_UI_HIDDEN of Android: at most half of the budget is kept. */
    INTERLEAF_TRIM_UI_HIDDEN = 0,
    /* TRIM_MEMORY_BACKGROUND: a quarter. */
    INTERLEAF_TRIM_BACKGROUND = 1,
    /* didReceiveMemoryWarning of iOS: nothing but what calls under way use. */
    INTERLEAF_TRIM_WARNING = 2
};

/* Gives memory of the cache back, as far as nobody uses it. */
interleaf_status interleaf_trim_memory(const interleaf_service *service, int32_t level);

/* What the cache may take of its pool from now on, in bytes: when this returns no more is held. Calls under way that have no room any
   more make way, those that came last first, and go on where they were once there is; one that has no room alone ends with
   INTERLEAF_FINISH_CONTEXT_FULL. */
interleaf_status interleaf_set_budget(const interleaf_service *service, uint64_t bytes);

/* Bytes held, by kind. */
typedef struct interleaf_memory {
    uint32_t size;
    /* 0. */
    uint32_t reserved;
    /* Base weights, adapters, the whole pool of KV pages, and activations. */
    uint64_t base;
    uint64_t adapters;
    uint64_t pool;
    uint64_t activations;
    /* Of the pool, pages of calls under way, and pages kept for whoever comes with the same tokens. */
    uint64_t in_use;
    uint64_t cached;
    /* Of these two, pages that stand for a base's and an adapter's lower layers at once; pages that are not stored as they were
       computed; and of these, chunks at rest. */
    uint64_t shared_layers;
    uint64_t encoded;
    uint64_t at_rest;
    /* Of the pages of calls under way, exact keys beside encoded ones. */
    uint64_t exact_keys;
    /* Beside the pool, what pages are decoded with and translated with. */
    uint64_t bases;
    uint64_t maps;
    /* Of the pool, blocks that adapters' weights take, where they share it. */
    uint64_t pooled_adapters;
    /* What the cache holds of the pool, and may hold, whole blocks. */
    uint64_t held;
    uint64_t budget;
    /* The same of the file on flash; 0 where there is none. */
    uint64_t flash_held;
    uint64_t flash_budget;
    /* Beside the pool, copies of pages that wait to be written to that file. */
    uint64_t on_its_way;
} interleaf_memory;

interleaf_status interleaf_memory_use(const interleaf_service *service, interleaf_memory *memory);

/* What a service has done since it was opened. */
typedef struct interleaf_stats {
    uint32_t size;
    /* 0. */
    uint32_t reserved;
    /* Calls that wait for a place in the batch now, and that are in it, or whose context is being written. */
    uint64_t waiting;
    uint64_t under_way;
    /* Calls that have ended with an answer, cancelled ones included; of them, cancelled ones; and calls that failed. */
    uint64_t answered;
    uint64_t cancelled;
    uint64_t failed;
    /* Tokens of prompts, those of contexts included; of them, those that were in the cache; and tokens of answers. */
    uint64_t prompt_tokens;
    uint64_t reused_tokens;
    uint64_t generated_tokens;
    /* Tokens of prompts that were not in the cache. */
    uint64_t computed_tokens;
    /* Calls that were refused with INTERLEAF_OVERLOADED. */
    uint64_t overloaded;
    /* From a call to its first token, in milliseconds: of how many calls, their sum, and what half, 95 % and 99 % of them took at
       most, within 3.2 %; 0 of none. */
    uint64_t first_tokens;
    double first_token_sum_ms;
    double first_token_p50_ms;
    double first_token_p95_ms;
    double first_token_p99_ms;
    /* From one token to the next, the mean of each call that had two, likewise. */
    uint64_t per_tokens;
    double per_token_sum_ms;
    double per_token_p50_ms;
    double per_token_p95_ms;
    double per_token_p99_ms;
    /* Adapters that are registered, and whose weights are loaded now; how often weights of the pool were loaded and let go. */
    uint64_t adapters_registered;
    uint64_t adapters_loaded;
    uint64_t adapter_loads;
    uint64_t adapter_unloads;
    /* Chunks of 16 tokens, between memory and flash: written; read; computed again, because that was sooner or they could not be read;
       that could not be written; that were not as they had been written; and of an earlier run, that are there again. */
    uint64_t chunks_written;
    uint64_t chunks_read;
    uint64_t chunks_recomputed;
    uint64_t chunks_unwritten;
    uint64_t chunks_damaged;
    uint64_t chunks_restored;
} interleaf_stats;

interleaf_status interleaf_service_stats(const interleaf_service *service, interleaf_stats *stats);

/* Returns once nothing runs on the GPU, as systems want it of apps that leave the foreground; answers wait until it is resumed.
   Nothing happens where the model runs on the CPU. */
interleaf_status interleaf_suspend_gpu(const interleaf_service *service);
interleaf_status interleaf_resume_gpu(const interleaf_service *service);

/* ---- Apps ---- */

/* An app: its contexts are its own, and no other app can call, list or name them. */
typedef struct interleaf_app interleaf_app;

/* What an app is to its user. */
enum {
    /* Gone: its calls are cancelled, what it alone has leaves memory, and its contexts stay. */
    INTERLEAF_APP_STATE_KILLED = 0,
    /* In the background, and the next to be ended. */
    INTERLEAF_APP_STATE_CACHED = 1,
    INTERLEAF_APP_STATE_BACKGROUND = 2,
    /* Seen, and not in use. */
    INTERLEAF_APP_STATE_VISIBLE = 3,
    INTERLEAF_APP_STATE_FOREGROUND = 4
};

/* An app by its name, which says whose the contexts in the store are. It comes to the foreground. Apps share what is in the cache
   of tokens that each of them comes with itself; under a salt, a secret of its own of 16 bytes, an app shares nothing. NULL for no
   salt. */
interleaf_status interleaf_app_open(const interleaf_service *service, const char *name, const uint8_t *salt,
                                    interleaf_app **app);

/* Frees the handle; the app and its contexts stay. */
void interleaf_app_close(interleaf_app *app);

/* Sets an INTERLEAF_APP_STATE_...: calls of apps in the foreground go first, and what others have in memory goes first. */
interleaf_status interleaf_app_set_state(const interleaf_app *app, int32_t state);
interleaf_status interleaf_app_state(const interleaf_app *app, int32_t *state);

/* The numbers of an app's contexts, those of earlier runs included, in the order in which they began. `count` is how many there
   are, of which `capacity` fit in `ids`; INTERLEAF_BUFFER_TOO_SMALL if that is fewer, with nothing in `ids`. `ids` may be NULL if
   `capacity` is 0. */
interleaf_status interleaf_app_contexts(const interleaf_app *app, uint64_t *ids, size_t capacity, size_t *count);

/* ---- Contexts ---- */

/* A text that an app goes on with from call to call and, with a store, from run to run. */
typedef struct interleaf_context interleaf_context;

/* Begins an empty one. */
interleaf_status interleaf_context_new(const interleaf_app *app, interleaf_context **context);

/* One that is there, by its number. */
interleaf_status interleaf_context_open(const interleaf_app *app, uint64_t id, interleaf_context **context);

/* Its number: the same as long as it is there, and never another's. */
interleaf_status interleaf_context_id(const interleaf_context *context, uint64_t *id);

/* Its tokens, prompts and answers; `tokens`, `capacity` and `count` as those of interleaf_app_contexts. */
interleaf_status interleaf_context_tokens(const interleaf_context *context, uint32_t *tokens, size_t capacity,
                                          size_t *count);

/* Deletes it for good, from memory and from the store; a call of it is cancelled. The handle is still to be closed. */
interleaf_status interleaf_context_delete(const interleaf_context *context);

/* Frees the handle; the context stays. */
void interleaf_context_close(interleaf_context *context);

/* ---- Calls ---- */

/* One answer under way. */
typedef struct interleaf_generation interleaf_generation;

/* What is added to a token's logit; -INFINITY bans it. */
typedef struct interleaf_logit_bias {
    uint32_t token;
    float bias;
} interleaf_logit_bias;

/* Bits of interleaf_call_options.flags. */
enum {
    /* A context that has no room keeps its first tokens, `keep_first` of them, and the most recent, and what is between is
       forgotten; else the call is refused. */
    INTERLEAF_CALL_FORGET = 1,
    /* The answer ends at the tokens of `end_tokens` alone, also if there are none; else at the model's own. */
    INTERLEAF_CALL_END_TOKENS = 2
};

typedef struct interleaf_call_options {
    uint32_t size;
    /* INTERLEAF_CALL_..., together. */
    uint32_t flags;
    /* The name of a registered adapter; NULL for the base model. */
    const char *adapter;
    /* The longest answer, in tokens; 0 for 256. */
    uint32_t max_tokens;
    /* Tokens that stay at the beginning, with INTERLEAF_CALL_FORGET; rounded up to 16. */
    uint32_t keep_first;
    /* The seed of the random draws: the same one gives the same answer. */
    uint64_t seed;
    /* 0 for the most likely token each time. */
    float temperature;
    /* Draw from the most likely tokens that together reach it; 0 and 1 for all. */
    float top_p;
    /* Draw from tokens at least so many times as likely as the most likely one. */
    float min_p;
    /* On the last `repeat_window` tokens; 0 and 1 for none. */
    float repeat_penalty;
    /* Draw from so many of the most likely tokens; 0 for all. */
    uint32_t top_k;
    /* In tokens; 0 for 64. */
    uint32_t repeat_window;
    /* What the mean divergence of the output from the exact answer's may be, in nats; 0 for exact. */
    float drift;
    /* How many `stops`, `end_tokens` and `logit_biases` there are; the pointer may be NULL if there are none. */
    uint32_t stop_count;
    uint32_t end_token_count;
    uint32_t logit_bias_count;
    /* The answer ends before any of these. */
    const char *const *stops;
    const uint32_t *end_tokens;
    const interleaf_logit_bias *logit_biases;
    /* How many of the adapters that suit the prompt best the router chooses from: of these the first that is loaded answers, else the
       best. `adapter` is NULL then. 0 for no such choice. */
    uint32_t route_among;
    /* 0. */
    uint32_t reserved;
} interleaf_call_options;

/* One turn of a conversation. */
typedef struct interleaf_message {
    /* "system", "user", "assistant", or what else the model's chat template knows. */
    const char *role;
    const char *content;
} interleaf_message;

/* Goes on with a prompt behind what the context has, and an answer to it. When the answer ends the context has both; where the call
   fails, what it had before. The first text of a context begins as the tokenizer begins a text. */
interleaf_status interleaf_call_text(const interleaf_context *context, const char *text, size_t length,
                                     const interleaf_call_options *options, interleaf_generation **generation);
interleaf_status interleaf_call_tokens(const interleaf_context *context, const uint32_t *tokens, size_t count,
                                       const interleaf_call_options *options, interleaf_generation **generation);

/* The same with a whole conversation, through the model's chat template. What of it the context has already stays and is not
   computed again, and the rest of the context is given up. */
interleaf_status interleaf_call_chat(const interleaf_context *context, const interleaf_message *messages, size_t count,
                                     const interleaf_call_options *options, interleaf_generation **generation);

/* What an event is. */
enum {
    /* Nothing came in time. */
    INTERLEAF_EVENT_PENDING = 0,
    /* `done` of `total` tokens of the prompt are in the cache. Comes again where a call made way for others and reads on. */
    INTERLEAF_EVENT_PREFILL = 1,
    /* `done` tokens in the context's middle had to go for the prompt and the answer to fit. */
    INTERLEAF_EVENT_FORGOTTEN = 2,
    /* `text` is more of the answer, whole characters; `done` tokens have been generated so far. */
    INTERLEAF_EVENT_TEXT = 3,
    /* The call has ended; interleaf_answer says how. Comes again however often it is asked. */
    INTERLEAF_EVENT_END = 4,
    /* The router has chosen the adapter that `text` names; NULL for the base. */
    INTERLEAF_EVENT_ADAPTER = 5
};

typedef struct interleaf_event {
    uint32_t size;
    /* INTERLEAF_EVENT_... */
    int32_t kind;
    uint64_t done;
    uint64_t total;
    /* Until the generation is polled again or closed; NULL for other events. */
    const char *text;
    size_t text_length;
} interleaf_event;

/* The next event of a call. Waits at most `timeout_ms` milliseconds for one: not at all for 0, and as long as it takes for -1. It
   fails only for what is wrong with its arguments: what the call fails with, interleaf_answer says. */
interleaf_status interleaf_poll(const interleaf_generation *generation, int32_t timeout_ms, interleaf_event *event);

/* Why an answer ended. */
enum {
    /* The model chose an end token. */
    INTERLEAF_FINISH_END_TOKEN = 0,
    /* A stop string appeared. */
    INTERLEAF_FINISH_STOP = 1,
    /* It has as many tokens as were asked for. */
    INTERLEAF_FINISH_LENGTH = 2,
    /* The context or the pool has no more room. */
    INTERLEAF_FINISH_CONTEXT_FULL = 3,
    /* It was cancelled, or the app killed. */
    INTERLEAF_FINISH_CANCELLED = 4,
    /* No token could be chosen. */
    INTERLEAF_FINISH_NOT_A_NUMBER = 5,
    /* The device was lost, had no room, or failed. */
    INTERLEAF_FINISH_DEVICE_LOST = 6,
    INTERLEAF_FINISH_OUT_OF_MEMORY = 7,
    INTERLEAF_FINISH_DEVICE_FAILED = 8
};

typedef struct interleaf_answer {
    uint32_t size;
    /* INTERLEAF_FINISH_... */
    int32_t reason;
    /* All of the text, without an end token or stop string. Until the generation is closed, as are the tokens. */
    const char *text;
    size_t text_length;
    /* The generated tokens, an end token left out. */
    const uint32_t *tokens;
    size_t token_count;
    /* Tokens of the prompt, those of the context included; and how many of them were in the cache. */
    uint64_t prompt_tokens;
    uint64_t reused_tokens;
    /* The first position that the adapter acted on; -1 where the base answered. */
    int64_t adapter_from;
    /* From the call to the first token, and from that to the last, in milliseconds; -1 for the first if there was no token. */
    double first_token_ms;
    double decode_ms;
    /* What the output may diverge by for the pages that were read, in nats; 0 for an exact answer. */
    float drift;
    /* 1 if the context's tokens are on disk and come back after a crash; else 0, as always without a store. */
    uint32_t durable;
} interleaf_answer;

/* The whole answer of a call that has ended; else INTERLEAF_NOT_ENDED. Where the call failed, the status that it failed with. */
interleaf_status interleaf_answer_of(const interleaf_generation *generation, interleaf_answer *answer);

/* Ends the answer within one step, with what it has; the context keeps that. Nothing happens to one that has ended. */
interleaf_status interleaf_cancel(const interleaf_generation *generation);

/* Frees the handle; a call that has not ended is cancelled. */
void interleaf_generation_close(interleaf_generation *generation);

#ifdef __cplusplus
}
#endif

#endif
