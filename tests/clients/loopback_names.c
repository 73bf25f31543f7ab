/* Preloaded into a client: names under .localhost and .127.0.0.1 are 127.0.0.1, as most desktops
 * resolve *.localhost; plain libc would ask a name server. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>

typedef int resolve_fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static int ends_with(const char *text, const char *tail)
{
    size_t text_length = strlen(text), tail_length = strlen(tail);
    return text_length > tail_length && strcmp(text + text_length - tail_length, tail) == 0;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **result)
{
    resolve_fn *real = (resolve_fn *)dlsym(RTLD_NEXT, "getaddrinfo");
    if (node != NULL && (ends_with(node, ".localhost") || ends_with(node, ".127.0.0.1")))
        node = "127.0.0.1";
    return real(node, service, hints, result);
}
