//go:build ignore

/*
 * Many processes that do nothing, or a few that come and go. A process of this
 * program is as small as one can be without sharing its memory.
 *
 *     crowd              reads numbers: forks until there are so many processes
 *                        that wait for a signal, and says how many there are
 *     crowd forks RATE   starts RATE programs a second, which live for 0, 10 or
 *                        300 ms, until it reads something
 *     crowd short MS     one of those
 *
 * It ends at the line "end" and when its input does, says how many there were,
 * and leaves nobody behind.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pid_t *all;
static long alive;

static void end(void)
{
	for (long i = 0; i < alive; i++)
		if (all[i] > 1) /* 0 and -1 would be others */
			kill(all[i], SIGKILL);
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
}

static int crowd(void)
{
	char line[64];

	while (fgets(line, sizeof line, stdin)) {
		if (!strncmp(line, "end", 3))
			break;
		long want = atol(line);
		pid_t *more = want > alive ? realloc(all, want * sizeof *all) : NULL;

		if (!more) {
			printf("%ld cannot be had\n", want);
			continue;
		}
		all = more;
		while (alive < want) {
			pid_t parent = getpid(), pid = fork();

			if (pid < 0)
				break;
			if (pid == 0) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				if (getppid() != parent)
					_exit(0);
				for (;;)
					pause();
			}
			all[alive++] = pid;
		}
		if (alive < want)
			printf("%ld %s\n", alive, strerror(errno));
		else
			printf("%ld\n", alive);
	}
	end();
	printf("%ld\n", alive);
	return 0;
}

static int forks(long rate)
{
	static char *lives[] = { "0", "10", "300" };
	struct timespec next;
	long count = 0;

	if (rate < 1)
		return 2;
	clock_gettime(CLOCK_MONOTONIC, &next);
	for (;;) {
		struct pollfd in = { .fd = 0, .events = POLLIN };
		struct timespec now;

		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		clock_gettime(CLOCK_MONOTONIC, &now);
		long ms = (next.tv_sec - now.tv_sec) * 1000 + (next.tv_nsec - now.tv_nsec) / 1000000;
		if (ms > 0) {
			if (poll(&in, 1, ms) > 0)
				break;
			continue;
		}
		if (poll(&in, 1, 0) > 0)
			break;
		if (ms < -1000) /* what could not be kept up with is not made up for */
			next = now;
		next.tv_nsec += 1000000000L / rate;
		next.tv_sec += next.tv_nsec / 1000000000L;
		next.tv_nsec %= 1000000000L;
		pid_t pid = vfork();
		if (pid == 0) {
			execl("/proc/self/exe", "crowd", "short", lives[count % 3], (char *)NULL);
			_exit(127);
		}
		if (pid > 0)
			count++;
	}
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
	printf("%ld\n", count);
	return 0;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 3 && !strcmp(argv[1], "short")) {
		usleep(atol(argv[2]) * 1000);
		return 0;
	}
	printf("ready\n");
	if (argc == 3 && !strcmp(argv[1], "forks"))
		return forks(atol(argv[2]));
	return crowd();
}
