/* The least that a loop of its own can cost: epoll, one receive, a search for the ends of heads, one send of a constant.
 * No limits, no deadlines, no checks, no clock. A request in pieces, or a client that does not read, ends the program.
 *
 *   loop http|echo [--close] [--at-once] [--defer SECONDS] [--port PORT]
 *
 *   --close    the answer ends its connection
 *   --at-once  receives right after accept, and registers only a connection that stays (accept(2), epoll(7))
 *   --defer    TCP_DEFER_ACCEPT (tcp(7)): a connection is accepted when its first bytes have arrived
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 4096, EVENTS = 1024, RECEIVED_MAX = 64 * 1024, DEPTH_MAX = 64 };

static char received[RECEIVED_MAX];
static char answers[DEPTH_MAX * 256];
static size_t answer_length;
static int epoll, listener, echo, closes, at_once;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void prepare_answers(void) {
    answer_length = (size_t)snprintf(answers, 256,
        "HTTP/1.1 200 OK\r\nServer: glowplug\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 24\r\n%s\r\nHello from Epoll Server!",
        closes ? "Connection: close\r\n" : "");
    for (int copy = 1; copy < DEPTH_MAX; copy++)
        memcpy(answers + (size_t)copy * answer_length, answers, answer_length);
}

/* The number of requests in `length` received bytes. */
static size_t requests(size_t length) {
    const char *at = received, *end = received + length, *found;
    size_t count = 0;
    while ((found = memmem(at, (size_t)(end - at), "\r\n\r\n", 4))) {
        count++;
        at = found + 4;
    }
    if (at != end || count > DEPTH_MAX) {
        fprintf(stderr, "a request in pieces, or more than %d at once\n", DEPTH_MAX);
        exit(1);
    }
    return count;
}

/* Whether the connection stays. */
static int advance(int connection) {
    ssize_t length = recv(connection, received, sizeof received, 0);
    if (length <= 0)
        return length < 0 && errno == EAGAIN;
    const char *bytes = echo ? received : answers;
    size_t owed = echo ? (size_t)length : requests((size_t)length) * answer_length;
    if (send(connection, bytes, owed, MSG_NOSIGNAL) != (ssize_t)owed) {
        if (errno == EPIPE || errno == ECONNRESET)
            return 0;
        fprintf(stderr, "a client that does not read\n");
        exit(1);
    }
    return !closes;
}

static void accept_all(void) {
    for (;;) {
        int connection = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (connection < 0) {
            if (errno == EAGAIN)
                return;
            if (errno == ECONNABORTED || errno == EINTR)
                continue;
            fail("accept4");
        }
        if (at_once && !advance(connection)) {
            close(connection);
            continue;
        }
        struct epoll_event event = {.events = EPOLLIN, .data.fd = connection};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection, &event) < 0)
            fail("epoll_ctl");
    }
}

int main(int count, char **words) {
    int port = 0, defer = 0, on = 1;
    echo = count > 1 && !strcmp(words[1], "echo");
    for (int at = 2; at < count; at++) {
        if (!strcmp(words[at], "--close"))
            closes = 1;
        else if (!strcmp(words[at], "--at-once"))
            at_once = 1;
        else if (!strcmp(words[at], "--defer") && at + 1 < count)
            defer = atoi(words[++at]);
        else if (!strcmp(words[at], "--port") && at + 1 < count)
            port = atoi(words[++at]);
    }
    prepare_answers();
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    /* Inherited by each connection. */
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (defer)
        setsockopt(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &defer, sizeof defer);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, BACKLOG) < 0)
        fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("listening %s tcp://127.0.0.1:%d\n", echo ? "echo" : "http", ntohs(address.sin_port));
    fflush(stdout);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0)
        fail("epoll");
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        if (ready < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int at = 0; at < ready; at++) {
            int fd = events[at].data.fd;
            if (fd == listener)
                accept_all();
            else if (!advance(fd))
                close(fd);
        }
    }
}
