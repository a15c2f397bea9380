// The guest of the container tests: one static program that is init and commands. argv[1] says what to do; exit status is
// the errno of what failed.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void stop(int signal) { _exit(signal == SIGTERM ? 7 : 8); }
static void halt(int signal) {
  (void)signal;
  reboot(RB_POWER_OFF);
}
static int wait_for_ever(void) {
  for (;;) {
    pause();
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
  }
}
static int notify(const char *text) {
  const char *path = getenv("NOTIFY_SOCKET");
  if (!path) return ENOENT;
  struct sockaddr_un to = {.sun_family = AF_UNIX};
  strncpy(to.sun_path, path, sizeof to.sun_path - 1);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (void *)&to, sizeof to) < 0 || write(fd, text, strlen(text)) < 0) return errno;
  close(fd);
  return 0;
}
static int cat(int from) {
  char buffer[65536];
  for (ssize_t n; (n = read(from, buffer, sizeof buffer)) != 0;) {
    if (n < 0) return errno;
    for (ssize_t at = 0, m; at < n; at += m)
      if ((m = write(1, buffer + at, n - at)) < 0) return errno;
  }
  return 0;
}
static int list(const char *path) {
  DIR *folder = opendir(path);
  if (!folder) return errno;
  for (struct dirent *entry; (entry = readdir(folder));)
    if (entry->d_name[0] != '.') printf("%s\n", entry->d_name);
  return 0;
}
static int status(void) {
  // What this process got without asking.
  struct stat root;
  stat("/", &root);
  mode_t mask = umask(022);
  struct timespec monotonic;
  clock_gettime(CLOCK_MONOTONIC, &monotonic);
  printf("pid %d\nuid %d\ngid %d\ngroups %d\n", getpid(), getuid(), getgid(), getgroups(0, NULL));
  printf("umask %o\nnice %d\nroot %d:%d\nup %ld\n", mask, getpriority(PRIO_PROCESS, 0), root.st_uid, root.st_gid,
         (long)monotonic.tv_sec);
  printf("dumpable %d\nkeyring %ld\n", prctl(PR_GET_DUMPABLE), syscall(SYS_keyctl, 0, -3, 0));
  char host[64];
  gethostname(host, sizeof host);
  printf("hostname %s\n", host);
  for (int fd = 0; fd < 1024; fd++)
    if (fcntl(fd, F_GETFD) >= 0) printf("fd %d\n", fd);
  for (char **entry = environ; *entry; entry++) printf("env %s\n", *entry);
  fflush(stdout);
  for (int file = 0; file < 3; file++) {
    const char *paths[] = {"/proc/self/status", "/proc/self/limits", "/proc/self/oom_score_adj"};
    int fd = open(paths[file], O_RDONLY);
    if (fd >= 0) cat(fd);
  }
  return 0;
}
// Each line: name and errno (0: it worked).
#define TRY(name, call) (errno = 0, (long)(call) < 0 ? errno : 0), printf("%s %d\n", name, errno)
static int escapes(void) {
  struct stat at;
  char proc_root[64];
  TRY("mknod", mknod("/tmp/disk", S_IFBLK | 0600, makedev(7, 0)));
  TRY("mount", mount("none", "/tmp", "tmpfs", 0, NULL));
  TRY("umount", umount2("/proc", 0));
  TRY("unshare", unshare(CLONE_NEWUSER));
  TRY("bpf", syscall(SYS_bpf, 0, NULL, 0));
  TRY("keyctl", syscall(SYS_keyctl, 0, -3, 0));
  TRY("clone3", syscall(SYS_clone3, NULL, 0));
  TRY("unknown", syscall(9999));
  TRY("x32", syscall(0x40000000 | 39));
  TRY("socket-vsock", socket(40, SOCK_STREAM, 0));
  TRY("sti", ioctl(0, TIOCSTI, "x"));
  TRY("kmsg", open("/dev/kmsg", O_RDONLY));
  TRY("mem", open("/dev/mem", O_RDONLY));
  TRY("kcore", open("/proc/kcore", O_RDONLY));
  TRY("sysrq", open("/proc/sysrq-trigger", O_WRONLY));
  TRY("core_pattern", open("/proc/sys/kernel/core_pattern", O_WRONLY));
  TRY("release_agent", open("/sys/fs/cgroup/release_agent", O_WRONLY));
  TRY("uevent_helper", open("/sys/kernel/uevent_helper", O_WRONLY));
  TRY("memory.max", open("/sys/fs/cgroup/cgroup.max.depth", O_WRONLY));
  snprintf(proc_root, sizeof proc_root, "/proc/%d/root/etc/shadow", getppid());
  TRY("parent", open(proc_root, O_RDONLY));
  TRY("setns", ({ int fd = open("/proc/1/ns/mnt", O_RDONLY); fd < 0 ? -1 : setns(fd, 0); }));
  TRY("above", ({ stat("/..", &at); struct stat root; stat("/", &root); at.st_ino == root.st_ino ? 0 : (errno = EXDEV, -1); }));
  TRY("host-id", syscall(SYS_setresuid, 70000, 70000, 70000));
  TRY("setgroups", ({ gid_t g = 70000; syscall(SYS_setgroups, 1, &g); }));
  TRY("hostname", sethostname("evil", 4));
  TRY("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
  TRY("module", syscall(SYS_finit_module, 0, "", 0));
  TRY("clock", ({ struct timespec t = {1, 0}; clock_settime(CLOCK_REALTIME, &t); }));
  TRY("nice", setpriority(PRIO_PROCESS, 0, -5));
  TRY("nofile", ({ struct rlimit l = {1, 10000000}; setrlimit(RLIMIT_NOFILE, &l); }));
  TRY("oom", ({ int fd = open("/proc/self/oom_score_adj", O_WRONLY); fd < 0 ? -1 : write(fd, "-500", 4); }));
  return 0;
}

int main(int count, char **words) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  const char *what = count > 1 ? words[1] : "hello";
  const char *one = count > 2 ? words[2] : "", *two = count > 3 ? words[3] : "";
  if (!strcmp(what, "hello")) return puts("hello from the guest") < 0;
  if (!strcmp(what, "wait")) return wait_for_ever();
  if (!strcmp(what, "term")) return signal(SIGTERM, stop), puts("ready"), wait_for_ever();
  if (!strcmp(what, "ignore")) {
    for (int n = 1; n < 65; n++) signal(n, SIG_IGN);
    return puts("ready"), wait_for_ever();
  }
  if (!strcmp(what, "deaf")) {
    // Has a handler, and goes on.
    return signal(SIGTERM, (void (*)(int))isatty), puts("ready"), wait_for_ever();
  }
  if (!strcmp(what, "system")) {
    signal(SIGRTMIN + 3, halt);
    usleep(atoi(one) * 1000);
    int error = notify("READY=1\nSTATUS=all is well\nX_SYSTEMD_SIGNALS_LEVEL=2\n");
    if (error) return error;
    return puts("system is up"), wait_for_ever();
  }
  if (!strcmp(what, "say")) return notify(one);
  if (!strcmp(what, "reboot")) return reboot(RB_AUTOBOOT), errno;
  if (!strcmp(what, "poweroff")) return reboot(RB_POWER_OFF), errno;
  if (!strcmp(what, "reboot-once")) {
    int fd = open(one, O_CREAT | O_EXCL | O_WRONLY, 0600);
    if (fd < 0) return signal(SIGTERM, stop), puts("second life"), wait_for_ever();
    return puts("first life"), reboot(RB_AUTOBOOT), errno;
  }
  if (!strcmp(what, "exit")) return atoi(one);
  if (!strcmp(what, "kill")) return kill(getpid(), atoi(one)), pause();
  if (!strcmp(what, "signal")) return kill(atoi(one), atoi(two)) < 0 ? errno : 0;
  if (!strcmp(what, "cat")) {
    if (!*one) return cat(0);
    int fd = open(one, O_RDONLY);
    return fd < 0 ? errno : cat(fd);
  }
  if (!strcmp(what, "write")) {
    int fd = open(one, O_WRONLY | O_CREAT | O_APPEND, 0644);
    return fd < 0 || write(fd, two, strlen(two)) < 0 ? errno : 0;
  }
  if (!strcmp(what, "flood-file")) {
    static char block[4096];
    int fd = open(one, O_WRONLY | O_CREAT, 0644);
    if (fd < 0) return errno;
    for (;;)
      if (write(fd, block, sizeof block) < 0) return errno;
  }
  if (!strcmp(what, "list")) return list(one);
  if (!strcmp(what, "stat")) {
    struct stat s;
    if (stat(one, &s) < 0) return errno;
    return printf("%d:%d %o %d:%d\n", s.st_uid, s.st_gid, s.st_mode, major(s.st_rdev), minor(s.st_rdev)) < 0;
  }
  if (!strcmp(what, "chown")) return chown(one, atoi(two), atoi(two)) < 0 ? errno : 0;
  if (!strcmp(what, "mkdir")) return mkdir(one, 0755) < 0 ? errno : 0;
  if (!strcmp(what, "both")) return write(1, "out", 3), write(2, "err", 3), atoi(one);
  if (!strcmp(what, "size")) {
    struct winsize size;
    if (ioctl(0, TIOCGWINSZ, &size) < 0) return errno;
    return printf("%d %d %s %s\n", size.ws_row, size.ws_col, ttyname(0), isatty(2) ? "tty" : "no") < 0;
  }
  if (!strcmp(what, "sizes")) {
    // Prints the size now and at each SIGWINCH.
    struct winsize size;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGWINCH);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int n = 0; n < 2; n++) {
      if (n) sigwaitinfo(&set, NULL);
      ioctl(0, TIOCGWINSZ, &size);
      printf("%d %d\n", size.ws_row, size.ws_col);
    }
    return 0;
  }
  if (!strcmp(what, "flood")) {
    static char block[65536];
    memset(block, 0, sizeof block);
    for (long left = atol(one), n; left > 0; left -= n)
      if ((n = write(1, block, left < (long)sizeof block ? left : (long)sizeof block)) < 0) return errno;
    return 0;
  }
  if (!strcmp(what, "lines")) {
    for (long n = 0; n < atol(one); n++) printf("line %ld\n", n);
    return signal(SIGTERM, stop), wait_for_ever();
  }
  if (!strcmp(what, "child")) {
    // Leaves a process behind that holds the output.
    if (fork() == 0) return wait_for_ever();
    return puts("left one"), atoi(one);
  }
  if (!strcmp(what, "forks")) {
    int made = 0;
    for (pid_t child; made < atoi(one) && (child = fork()) >= 0; made++)
      if (child == 0) return wait_for_ever();
    return made;
  }
  if (!strcmp(what, "eat")) {
    // Megabytes, touched; "child" eats in a child and lives on.
    if (!strcmp(two, "child") && fork() > 0) return signal(SIGTERM, stop), puts("ready"), wait_for_ever();
    for (int n = 0; n < atoi(one); n++) {
      char *block = malloc(1 << 20);
      if (!block) return ENOMEM;
      memset(block, 1, 1 << 20);
    }
    return puts("eaten"), wait_for_ever();
  }
  if (!strcmp(what, "bomb"))
    for (puts("ready");;) fork();
  if (!strcmp(what, "delegate")) {
    // As systemd does it: its own processes below, then controllers for the children.
    if (mkdir("/sys/fs/cgroup/own", 0755) < 0) return errno;
    int procs = open("/sys/fs/cgroup/own/cgroup.procs", O_WRONLY);
    if (procs < 0 || write(procs, "0", 1) < 0) return errno;
    int control = open("/sys/fs/cgroup/cgroup.subtree_control", O_WRONLY);
    if (control < 0 || write(control, "+memory +pids", 13) < 0) return errno;
    return signal(SIGTERM, stop), puts("ready"), wait_for_ever();
  }
  if (!strcmp(what, "status")) return status();
  if (!strcmp(what, "escapes")) return escapes();
  if (!strcmp(what, "status-and-wait")) return status(), puts("ready"), signal(SIGTERM, stop), wait_for_ever();
  fprintf(stderr, "unknown: %s\n", what);
  return 99;
}
