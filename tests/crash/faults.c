/* Runs a program and decides about its system calls that change files, one by one.
 *
 *     faults STDOUT STDERR PROGRAM [ARGUMENT]...
 *
 * says `pid N`, then takes commands, one a line:
 *     arm KIND NTH ERRNO    the NTH call of that kind from now on fails with ERRNO; with ERRNO 0 it is
 *                           held, `held KIND` is said, and nobody but a kill gets the program further
 *     seen                  says how many calls of that kind there were since `arm`
 * KIND is any, file-sync, dir-sync, or a name in `kinds`. The calls are stopped by a seccomp filter,
 * so it does not matter how the program makes them. Ends, and kills the program, when its input ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct { int number; const char *name; } kinds[] = {
    {SYS_fsync, "sync"}, {SYS_fdatasync, "sync"}, {SYS_linkat, "link"}, {SYS_renameat2, "rename"},
    {SYS_renameat, "rename"}, {SYS_unlinkat, "unlink"}, {SYS_mkdirat, "mkdir"},
    {SYS_pwrite64, "write"}, {SYS_pwritev, "write"}, {SYS_pwritev2, "write"},
    {SYS_fsetxattr, "attribute"}, {SYS_copy_file_range, "copy"}, {SYS_ftruncate, "size"},
    {SYS_fchmod, "mode"},
#ifdef SYS_rename
    {SYS_rename, "rename"},
#endif
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

static char armed[32] = "nothing";
static long nth, seen;
static int error_number;

static void fail(const char *doing) { perror(doing); exit(1); }

static int install_filter(void)
{
    struct sock_filter code[KINDS + 3];
    int at = 0;
    code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < KINDS; i++)
        code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kinds[i].number, KINDS - i, 0);
    code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
    struct sock_fprog program = {.len = at, .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) fail("no_new_privs");
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

static void pass_descriptor(int socket, int descriptor)
{
    char byte = 0, space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec piece = {&byte, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &descriptor, sizeof(int));
    if (sendmsg(socket, &message, 0) != 1) fail("sendmsg");
}

static int take_descriptor(int socket)
{
    char byte, space[CMSG_SPACE(sizeof(int))];
    struct iovec piece = {&byte, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    if (recvmsg(socket, &message, 0) != 1 || !CMSG_FIRSTHDR(&message)) return -1;
    int descriptor;
    memcpy(&descriptor, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
    return descriptor;
}

static void run(int socket, char **words)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int output = open(words[0], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    int log = open(words[1], O_WRONLY | O_CREAT | O_APPEND, 0644);
    int listener = install_filter();
    if (listener < 0 || output < 0 || log < 0) fail("starting");
    pass_descriptor(socket, listener);
    close(listener), close(socket);
    dup2(open("/dev/null", O_RDONLY), 0), dup2(output, 1), dup2(log, 2);
    execv(words[2], words + 2);
    fail("exec");
}

/* Whether a call is of the armed kind. */
static int matches(const struct seccomp_notif *call)
{
    const char *name = "?";
    char path[64];
    for (int i = 0; i < KINDS; i++)
        if (kinds[i].number == call->data.nr) name = kinds[i].name;
    if (!strcmp(armed, "any") || !strcmp(armed, name)) return 1;
    if (strcmp(name, "sync")) return 0;
    struct stat stat_of;
    snprintf(path, sizeof path, "/proc/%u/fd/%d", call->pid, (int)call->data.args[0]);
    if (stat(path, &stat_of)) return 0;
    return !strcmp(armed, S_ISDIR(stat_of.st_mode) ? "dir-sync" : "file-sync");
}

static void decide(int listener)
{
    struct seccomp_notif call;
    memset(&call, 0, sizeof call);
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call)) return;
    struct seccomp_notif_resp answer = {.id = call.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    if (matches(&call) && ++seen == nth) {
        if (error_number == 0) {
            printf("held %s\n", armed);
            return;
        }
        answer.flags = 0;
        answer.error = -error_number;
    }
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
}

static int obey(void)
{
    static char line[128];
    if (!fgets(line, sizeof line, stdin)) return 0;
    if (sscanf(line, "arm %31s %ld %d", armed, &nth, &error_number) == 3) {
        seen = 0;
        printf("armed\n");
    } else {
        printf("seen %ld\n", seen);
    }
    return 1;
}

int main(int count, char **words)
{
    int pair[2];
    if (count < 4 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) fail("usage");
    setvbuf(stdout, NULL, _IOLBF, 0);
    setvbuf(stdin, NULL, _IONBF, 0);
    pid_t child = fork();
    if (child == 0) {
        close(pair[0]);
        run(pair[1], words + 1);
    }
    close(pair[1]);
    int listener = take_descriptor(pair[0]);
    if (listener < 0) {
        fprintf(stderr, "no seccomp listener\n");
        return 1;
    }
    printf("pid %d\n", child);
    struct pollfd waits[2] = {{.fd = listener, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    for (;;) {
        if (poll(waits, 2, -1) < 0 && errno != EINTR) break;
        if (waits[0].revents & POLLIN) decide(listener);
        else if (waits[0].revents & (POLLHUP | POLLERR)) break;
        if (waits[1].revents && !obey()) {
            kill(child, SIGKILL);
            break;
        }
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
