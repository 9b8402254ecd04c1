//go:build ignore

/*
 * The least that sampling can cost: wakes up every PERIOD_MS milliseconds and
 * reads files that it keeps open, each at every Nth tick, without looking at
 * what it read.
 *
 *     floor PERIOD_MS N:FILE...
 *
 * A file of which a read gave less than half a page is whole; of a longer one
 * the kernel may have more.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static char buf[1 << 20];
	static int fds[256], every[256];
	int files = 0;

	if (argc < 3 || argc > 256) {
		fprintf(stderr, "usage: floor PERIOD_MS N:FILE...\n");
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	long period = atol(argv[1]) * 1000000L;
	for (int i = 2; i < argc; i++) {
		char *path = strchr(argv[i], ':');
		every[files] = atoi(argv[i]);
		if (!path || every[files] < 1)
			return 2;
		fds[files] = open(path + 1, O_RDONLY | O_CLOEXEC);
		if (fds[files] < 0) {
			perror(path + 1);
			return 1;
		}
		files++;
	}
	puts("ready");
	fflush(stdout);
	struct timespec next;
	clock_gettime(CLOCK_MONOTONIC, &next);
	for (long tick = 0;; tick++) {
		next.tv_nsec += period;
		while (next.tv_nsec >= 1000000000L) {
			next.tv_nsec -= 1000000000L;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
		for (int i = 0; i < files; i++) {
			if ((tick + i) % every[i])
				continue;
			off_t at = 0;
			for (;;) {
				ssize_t n = pread(fds[i], buf, sizeof buf, at);
				if (n <= 0)
					break;
				at += n;
				if (n < 2048)
					break;
			}
		}
	}
}
