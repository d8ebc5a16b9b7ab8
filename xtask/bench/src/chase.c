/* The peer of `klab bench core`: what C does with the same mapping of the guest's RAM, knowing every offset
 * beforehand. It walks init_task.tasks reading next, pid, comm, mm and __state, then reads random words of the direct
 * map, then all of it in blocks.
 *
 * argv: RAM-file, init_task (its offset in the file), page_offset_base, offsetof tasks, pid, comm, mm, __state,
 *       LOW (bytes of RAM below the PCI hole), HOLE-END (guest-physical start of the RAM above it), walks, reads,
 *       where the reads begin, how far they reach, bytes of a block, how often all blocks are copied
 * stdout: tasks, checksum, ns of the first walk, median ns of a later walk, ns of all random reads, their checksum,
 *         median ns of a copy of all blocks
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

static const char *ram;
static uint64_t size, base, low, high, tasks, pid, comm, mm, state;

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* An address of the direct map to its offset in the RAM file. */
static uint64_t offset(uint64_t virt)
{
	uint64_t phys = virt - base;
	return phys < low ? phys : phys - high + low;
}

static uint64_t word(uint64_t at)
{
	uint64_t w;
	memcpy(&w, ram + at, sizeof w);
	return w;
}

static uint64_t walk(uint64_t first, uint64_t *count)
{
	/* As for_each_process does, without init_task itself. */
	uint64_t sum = 0, n = 0, task = offset(word(first + tasks) - tasks);
	/* The list comes back to init_task by its address in the kernel image, outside the direct map. */
	while (task < size - 65536 && n < 1000000) {
		uint32_t number, now_state;
		uint64_t name[2];
		memcpy(&number, ram + task + pid, sizeof number);
		memcpy(name, ram + task + comm, sizeof name);
		memcpy(&now_state, ram + task + state, sizeof now_state);
		sum = sum * 31 + number + name[0] + name[1] + word(task + mm) + now_state;
		n++;
		task = offset(word(task + tasks) - tasks);
	}
	*count = n;
	return sum;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	struct stat st;
	int fd;
	uint64_t first, count, sum, start, cold, reads, all, i, at, from, span, block, sweeps;
	uint64_t x = 88172645463325252u;
	static uint64_t warm[100000], bulk[1000];
	char *copy;
	size_t walks;

	if (argc != 17)
		return 2;
	fd = open(argv[1], O_RDONLY);
	if (fd < 0 || fstat(fd, &st))
		return 3;
	size = (uint64_t)st.st_size;
	first = strtoull(argv[2], 0, 0);
	base = strtoull(argv[3], 0, 0);
	tasks = strtoull(argv[4], 0, 0);
	pid = strtoull(argv[5], 0, 0);
	comm = strtoull(argv[6], 0, 0);
	mm = strtoull(argv[7], 0, 0);
	state = strtoull(argv[8], 0, 0);
	low = strtoull(argv[9], 0, 0);
	high = strtoull(argv[10], 0, 0);
	walks = strtoull(argv[11], 0, 0);
	reads = strtoull(argv[12], 0, 0);
	from = strtoull(argv[13], 0, 0);
	span = strtoull(argv[14], 0, 0);
	block = strtoull(argv[15], 0, 0);
	sweeps = strtoull(argv[16], 0, 0);
	ram = mmap(0, size, PROT_READ, MAP_SHARED, fd, 0);
	copy = malloc(block + 1);
	if (ram == MAP_FAILED || !copy || walks > sizeof warm / sizeof *warm || sweeps > sizeof bulk / sizeof *bulk)
		return 4;

	start = now();
	sum = walk(first, &count);
	cold = now() - start;
	for (i = 0; i < walks; i++) {
		start = now();
		sum = walk(first, &count);
		warm[i] = now() - start;
	}
	qsort(warm, walks, sizeof *warm, by_size);

	/* xorshift64; one pass first, so that every page is there. */
	for (all = 0, i = 0; i < span; i += 4096)
		all += word(from + i);
	all = 0;
	start = now();
	for (i = 0; i < reads; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		all += word(offset(base + from + (x % (span - 8) & ~7ull)));
	}
	reads = now() - start;

	for (i = 0; i < sweeps; i++) {
		start = now();
		for (at = from; at + block <= from + span; at += block) {
			memcpy(copy, ram + at, block);
			/* The copy is used, as far as the compiler knows. */
			__asm__ volatile("" : : "r"(copy) : "memory");
		}
		bulk[i] = now() - start;
	}
	qsort(bulk, sweeps, sizeof *bulk, by_size);
	printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", count,
	       sum, cold, warm[walks / 2], reads, all, bulk[sweeps / 2]);
	return 0;
}
