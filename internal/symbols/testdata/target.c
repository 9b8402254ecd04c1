// A program whose functions the tests look up: it prints where they are and
// waits until its input ends.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

__attribute__((noinline)) int outer_work(int n) { return n * 3 + getpid(); }
__attribute__((noinline)) static int hidden_work(int n) { return n * 5 + getppid(); }

int main(int argc, char **argv) {
	void *code = mmap(NULL, 3 << 16, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	volatile int sink = outer_work(argc) + hidden_work(argc);
	(void)sink;
	printf("outer %p hidden %p fsync %p code %p\n", (void *)outer_work, (void *)hidden_work, (void *)fsync, code);
	fflush(stdout);
	char c;
	while (read(0, &c, 1) > 0)
		;
	return 0;
}
