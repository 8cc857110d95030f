/*
 * Two apps and their assistants: adapters by name, answers streamed side by side, one of them cancelled; an app that goes to the
 * background, memory that is given back, an adapter that is replaced, an app that is killed and comes back, a second run that finds a
 * context of the first. Adapters share the pool with pages, and what leaves memory goes to a file.
 * Every return code is looked at, and whatever is not as expected ends the program with 1.
 *
 *     assistant MODEL_FOLDER ADAPTER_FOLDER ADAPTER_FOLDER STORE_FOLDER
 *
 * The adapters are called "first" and "second". STORE_FOLDER is empty or not there. C99, and C++.
 */
#include <interleaf.h>

#include <stdio.h>
#include <stdlib.h>

/* Ends the program where a call does not end as expected. */
static void expect(interleaf_status found, interleaf_status expected, const char *what) {
    if (found != expected) {
        fprintf(stderr, "%s: expected %s, found %s: %s\n", what, interleaf_status_name(expected),
                interleaf_status_name(found), found == INTERLEAF_OK ? "" : interleaf_last_error());
        exit(1);
    }
}

static void ok(interleaf_status status, const char *what) { expect(status, INTERLEAF_OK, what); }

/* The same of anything else. */
static void check(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "expected: %s\n", what);
        exit(1);
    }
}

static interleaf_service *open_service(const char *model, const char *store) {
    interleaf_service *service = NULL;
    interleaf_open_options options;
    INTERLEAF_INIT(options);
    options.backend = INTERLEAF_BACKEND_CPU;
    options.context_tokens = 512;
    options.pool_contexts = 6;
    options.store_folder = store;
    /* Adapters come and go beside pages, and what leaves memory is read back. */
    options.flags = INTERLEAF_OPEN_POOL_ADAPTERS;
    options.swap_bytes = 64 << 20;
    ok(interleaf_open(model, &options, &service), "open");
    return service;
}

static interleaf_generation *ask(const interleaf_context *context, const char *adapter, uint32_t max_tokens,
                                 const char *question) {
    interleaf_message messages[2];
    interleaf_generation *generation = NULL;
    interleaf_call_options options;
    INTERLEAF_INIT(options);
    options.adapter = adapter;
    options.max_tokens = max_tokens;
    /* So that answers are as long as they may be, whatever the model says. */
    options.flags = INTERLEAF_CALL_END_TOKENS;
    messages[0].role = "system";
    messages[0].content = "You are a helpful assistant for the Rust programming language.";
    messages[1].role = "user";
    messages[1].content = question;
    ok(interleaf_call_chat(context, messages, 2, &options, &generation), "call");
    return generation;
}

/* Prints what has come of an answer, and says whether it has ended. */
static int show(const interleaf_generation *generation, const char *name, int32_t timeout_ms) {
    interleaf_event event;
    INTERLEAF_INIT(event);
    ok(interleaf_poll(generation, timeout_ms, &event), "poll");
    if (event.kind == INTERLEAF_EVENT_TEXT) {
        check(event.text[event.text_length] == '\0', "a NUL behind the text");
        printf("%s %3u | %s\n", name, (unsigned)event.done, event.text);
    }
    return event.kind == INTERLEAF_EVENT_END;
}

static interleaf_answer answer_of(const interleaf_generation *generation, const char *name) {
    interleaf_answer answer;
    INTERLEAF_INIT(answer);
    ok(interleaf_answer_of(generation, &answer), "answer");
    printf("%s     | %u tokens; of %u of the prompt %u were in the cache\n", name, (unsigned)answer.token_count,
           (unsigned)answer.prompt_tokens, (unsigned)answer.reused_tokens);
    return answer;
}

static uint64_t held(const interleaf_service *service) {
    interleaf_memory memory;
    INTERLEAF_INIT(memory);
    ok(interleaf_memory_use(service, &memory), "memory");
    check(memory.in_use + memory.cached <= memory.pool, "no more than the pool");
    check(memory.held <= memory.budget && memory.flash_held <= memory.flash_budget, "no more than the budgets");
    check(memory.pooled_adapters <= memory.held, "adapters in the pool");
    return memory.in_use + memory.cached;
}

/* What is refused, and how. */
static void refusals(const interleaf_service *service, const interleaf_app *app, const interleaf_context *context) {
    interleaf_service *none = NULL;
    interleaf_context *unknown = NULL;
    interleaf_generation *generation = NULL;
    interleaf_event event;
    interleaf_call_options options;
    const uint32_t far_out = 4000000000U;
    expect(interleaf_open("no-such-folder", NULL, &none), INTERLEAF_MODEL_REFUSED, "open of nothing");
    check(none == NULL && strstr(interleaf_last_error(), "no-such-folder") != NULL, "the folder in the message");
    expect(interleaf_open(NULL, NULL, &none), INTERLEAF_INVALID_ARGUMENT, "open of NULL");
    expect(interleaf_trim_memory(service, 7), INTERLEAF_INVALID_ARGUMENT, "a level that there is not");
    expect(interleaf_app_set_state(NULL, INTERLEAF_APP_STATE_KILLED), INTERLEAF_INVALID_ARGUMENT, "no app");
    expect(interleaf_context_open(app, 99, &unknown), INTERLEAF_UNKNOWN_CONTEXT, "a context that there is not");
    expect(interleaf_call_text(context, "\xff", 1, NULL, &generation), INTERLEAF_INVALID_ARGUMENT, "no UTF-8");
    expect(interleaf_call_tokens(context, NULL, 0, NULL, &generation), INTERLEAF_EMPTY_PROMPT, "no prompt");
    memset(&options, 0, sizeof options);
    expect(interleaf_call_tokens(context, &far_out, 1, &options, &generation), INTERLEAF_INVALID_ARGUMENT, "no size");
    options.size = sizeof options;
    options.temperature = -1;
    expect(interleaf_call_tokens(context, &far_out, 1, &options, &generation), INTERLEAF_INVALID_OPTION, "below 0");
    check(generation == NULL, "no handle where a call fails");
    /* What the engine finds wrong, the call ends with. */
    ok(interleaf_call_tokens(context, &far_out, 1, NULL, &generation), "call");
    INTERLEAF_INIT(event);
    ok(interleaf_poll(generation, -1, &event), "poll");
    check(event.kind == INTERLEAF_EVENT_END, "the end");
    {
        interleaf_answer answer;
        INTERLEAF_INIT(answer);
        expect(interleaf_answer_of(generation, &answer), INTERLEAF_UNKNOWN_TOKEN, "a token that there is not");
    }
    interleaf_generation_close(generation);
}

/* Another adapter under a name that there is, and a choice that nothing is there to make. */
static void replace(const interleaf_service *service, const interleaf_context *context, const char *folder) {
    interleaf_generation *generation = NULL;
    interleaf_call_options options;
    interleaf_answer answer;
    expect(interleaf_replace_adapter(service, "third", folder, NULL), INTERLEAF_UNKNOWN_ADAPTER, "nothing to replace");
    ok(interleaf_replace_adapter(service, "second", folder, NULL), "replace");
    generation = ask(context, "second", 4, "What is a slice?");
    while (!show(generation, "list  ", -1)) {
    }
    answer = answer_of(generation, "list  ");
    check(answer.adapter_from == 0 && answer.token_count == 4, "an answer under the new one");
    interleaf_generation_close(generation);
    expect(interleaf_open_router(service, NULL), INTERLEAF_NO_ROUTER, "a router that the store has not");
    INTERLEAF_INIT(options);
    options.route_among = 2;
    options.adapter = "first";
    expect(interleaf_call_text(context, "?", 1, &options, &generation), INTERLEAF_INVALID_ARGUMENT, "two choices");
    options.adapter = NULL;
    ok(interleaf_call_text(context, "?", 1, &options, &generation), "call");
    while (!show(generation, "list  ", -1)) {
    }
    INTERLEAF_INIT(answer);
    expect(interleaf_answer_of(generation, &answer), INTERLEAF_NO_ROUTER, "nothing to choose by");
    interleaf_generation_close(generation);
}

/* The first run: the number of the context that is kept. */
static uint64_t first_run(const char *model, const char *first, const char *second, const char *store) {
    interleaf_service *service = open_service(model, store);
    interleaf_app *mail = NULL, *notes = NULL;
    interleaf_context *letter = NULL, *list = NULL, *draft = NULL;
    interleaf_generation *answers[3];
    interleaf_adapter adapter;
    interleaf_answer answer;
    interleaf_stats stats;
    uint64_t before, id = 0, ids[1];
    uint8_t salt[16] = {1, 2, 3};
    int32_t state = -1;
    size_t count = 0, i;
    int ended = 0;
    const char *const names[3] = {"letter", "list  ", "draft "};

    INTERLEAF_INIT(adapter);
    ok(interleaf_register_adapter(service, "first", first, &adapter), "register");
    check(adapter.max_rank > 0 && adapter.bytes > 0 && !adapter.activated, "what the adapter is");
    ok(interleaf_register_adapter(service, "second", second, NULL), "register");
    expect(interleaf_register_adapter(service, "second", second, NULL), INTERLEAF_DUPLICATE_ADAPTER, "the same name");

    ok(interleaf_app_open(service, "org.example.mail", NULL, &mail), "app");
    ok(interleaf_app_open(service, "org.example.notes", salt, &notes), "app with a salt");
    ok(interleaf_context_new(mail, &letter), "context");
    ok(interleaf_context_new(mail, &draft), "context");
    ok(interleaf_context_new(notes, &list), "context");
    refusals(service, mail, letter);

    /* Three answers in one batch, of two apps and under three models. */
    answers[0] = ask(letter, "first", 24, "What is ownership?");
    answers[1] = ask(list, "second", 24, "What is borrowing?");
    answers[2] = ask(draft, NULL, 400, "What is a trait?");
    {
        interleaf_generation *refused = NULL;
        expect(interleaf_call_tokens(draft, NULL, 0, NULL, &refused), INTERLEAF_CONTEXT_BUSY, "a second call");
        INTERLEAF_INIT(answer);
        expect(interleaf_answer_of(answers[2], &answer), INTERLEAF_NOT_ENDED, "the answer before its end");
    }
    ok(interleaf_app_set_state(notes, INTERLEAF_APP_STATE_BACKGROUND), "background");
    ok(interleaf_app_state(notes, &state), "state");
    check(state == INTERLEAF_APP_STATE_BACKGROUND, "the state that was set");
    while (ended < 2) {
        ended = 0;
        for (i = 0; i < 2; i++) {
            ended += show(answers[i], names[i], 20);
        }
    }
    /* Nobody wants the third any more. */
    ok(interleaf_cancel(answers[2]), "cancel");
    while (!show(answers[2], names[2], -1)) {
    }
    check(show(answers[2], names[2], 0), "the end as often as it is asked for");
    for (i = 0; i < 3; i++) {
        answer = answer_of(answers[i], names[i]);
        check(answer.reason == (i < 2 ? INTERLEAF_FINISH_LENGTH : INTERLEAF_FINISH_CANCELLED), "why it ended");
        check(i == 2 || answer.token_count == 24, "as many tokens as were asked for");
        check(answer.text[answer.text_length] == '\0' && answer.drift == 0, "exact text");
        check(answer.adapter_from == (i < 2 ? 0 : -1), "where the adapter acted");
        check(answer.durable == 1, "on disk");
        interleaf_generation_close(answers[i]);
    }

    /* The context goes on, and what it has is not computed again. */
    answers[0] = NULL;
    {
        interleaf_call_options options;
        const char *const stops[1] = {"\n\n"};
        INTERLEAF_INIT(options);
        options.adapter = "first";
        options.max_tokens = 8;
        options.stops = stops;
        options.stop_count = 1;
        ok(interleaf_call_text(letter, " And", 4, &options, &answers[0]), "call");
        while (!show(answers[0], names[0], -1)) {
        }
        answer = answer_of(answers[0], names[0]);
        check(answer.reused_tokens > 24, "the first turn from the cache");
        interleaf_generation_close(answers[0]);
    }

    /* Memory is wanted back, as far as nobody uses it; contexts stay. */
    before = held(service);
    ok(interleaf_trim_memory(service, INTERLEAF_TRIM_WARNING), "trim");
    check(held(service) == 0 && before > 0, "everything given back");
    ok(interleaf_set_budget(service, 1 << 20), "budget");
    replace(service, list, first);
    ok(interleaf_suspend_gpu(service), "suspend");
    ok(interleaf_resume_gpu(service), "resume");

    /* An app that was killed calls again once it is back. */
    ok(interleaf_app_set_state(mail, INTERLEAF_APP_STATE_KILLED), "kill");
    expect(interleaf_call_text(letter, "?", 1, NULL, &answers[0]), INTERLEAF_APP_KILLED, "a call of a killed app");
    ok(interleaf_app_set_state(mail, INTERLEAF_APP_STATE_FOREGROUND), "back");
    answers[0] = ask(letter, "first", 4, "And a lifetime?");
    while (!show(answers[0], names[0], -1)) {
    }
    interleaf_generation_close(answers[0]);

    ok(interleaf_context_delete(draft), "delete");
    expect(interleaf_context_delete(draft), INTERLEAF_UNKNOWN_CONTEXT, "delete twice");
    interleaf_context_close(draft);
    ok(interleaf_app_contexts(mail, ids, 1, &count), "contexts");
    ok(interleaf_context_id(letter, &id), "id");
    check(count == 1 && ids[0] == id, "the one that is left");
    expect(interleaf_context_tokens(letter, NULL, 0, &count), INTERLEAF_BUFFER_TOO_SMALL, "no room for tokens");
    check(count > 24, "how many there are");

    INTERLEAF_INIT(stats);
    ok(interleaf_service_stats(service, &stats), "stats");
    check(stats.answered == 6 && stats.cancelled == 1 && stats.failed == 2, "what was done");
    check(stats.computed_tokens + stats.reused_tokens == stats.prompt_tokens && stats.overloaded == 0, "of prompts");
    check(stats.first_tokens == 6 && stats.first_token_p50_ms > 0, "when first tokens came");
    check(stats.first_token_p50_ms <= stats.first_token_p99_ms && stats.per_token_p95_ms > 0, "and the next ones");
    check(stats.adapters_registered == 2 && stats.adapter_loads >= 2, "adapters that were loaded");
    check(stats.chunks_written > 0 && stats.chunks_damaged == 0, "what went to flash");
    ok(interleaf_close(service), "close");
    expect(interleaf_app_set_state(mail, INTERLEAF_APP_STATE_CACHED), INTERLEAF_STOPPED, "a service that was closed");
    interleaf_context_close(letter);
    interleaf_context_close(list);
    interleaf_app_close(notes);
    interleaf_app_close(mail);
    return id;
}

/* The second run finds what the first has left. */
static void second_run(const char *model, const char *store, uint64_t id) {
    interleaf_service *service = open_service(model, store);
    interleaf_app *mail = NULL;
    interleaf_context *letter = NULL;
    interleaf_generation *answer = NULL;
    interleaf_restored restored;
    uint32_t *tokens;
    size_t count = 0;
    INTERLEAF_INIT(restored);
    ok(interleaf_restored_contexts(service, &restored), "restored");
    check(restored.contexts == 2 && restored.cut == 0 && restored.unreadable == 0, "two whole contexts");
    ok(interleaf_app_open(service, "org.example.mail", NULL, &mail), "app");
    ok(interleaf_context_open(mail, id, &letter), "the context of the first run");
    expect(interleaf_context_tokens(letter, NULL, 0, &count), INTERLEAF_BUFFER_TOO_SMALL, "tokens");
    tokens = (uint32_t *)malloc(count * sizeof *tokens);
    check(tokens != NULL && count > 0, "room for the tokens");
    ok(interleaf_context_tokens(letter, tokens, count, &count), "tokens");
    ok(interleaf_call_tokens(letter, tokens, 1, NULL, &answer), "call");
    /* Closed before its end, which cancels it. */
    interleaf_generation_close(answer);
    free(tokens);
    interleaf_context_close(letter);
    interleaf_app_close(mail);
    ok(interleaf_close(service), "close");
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "expected: %s MODEL_FOLDER ADAPTER_FOLDER ADAPTER_FOLDER STORE_FOLDER\n", argv[0]);
        return 2;
    }
    check(interleaf_abi() == INTERLEAF_ABI, "a library of this header");
    printf("interleaf %s\n", interleaf_version());
    second_run(argv[1], argv[4], first_run(argv[1], argv[2], argv[3], argv[4]));
    interleaf_service *nothing = NULL;
    ok(interleaf_close(nothing), "NULL");
    interleaf_generation_close(NULL);
    printf("all as expected\n");
    return 0;
}
