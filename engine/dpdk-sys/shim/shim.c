/*
 * What Rust asks of DPDK. Its structs stay on this side: their layout and the names of their members change from version to
 * version, and half of the interface is inline functions. Errors are negative errno values.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <rte_bus.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_devargs.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_version.h>

/* The log: what DPDK has said last, for whoever wants to know why something failed. */

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[64 * 1024];
static size_t log_len;
static bool log_aloud;

static ssize_t log_write(void *cookie, const char *text, size_t len)
{
	(void)cookie;
	size_t kept = RTE_MIN(len, sizeof(log_text) / 2);
	pthread_mutex_lock(&log_lock);
	if (log_len + kept > sizeof(log_text)) {
		/* The older half goes. */
		size_t half = sizeof(log_text) / 2;
		size_t rest = log_len > half ? log_len - half : 0;
		memmove(log_text, log_text + log_len - rest, rest);
		log_len = rest;
	}
	memcpy(log_text + log_len, text + len - kept, kept);
	log_len += kept;
	if (log_aloud)
		fwrite(text, 1, len, stderr);
	pthread_mutex_unlock(&log_lock);
	return len;
}

size_t shim_log_take(char *into, size_t room)
{
	pthread_mutex_lock(&log_lock);
	size_t len = RTE_MIN(log_len, room);
	memcpy(into, log_text + log_len - len, len);
	log_len = 0;
	pthread_mutex_unlock(&log_lock);
	return len;
}

/* The environment. */

/* Says aloud what it logs, too, if it is to. */
int shim_eal_start(int argc, char **argv, bool aloud)
{
	log_aloud = aloud;
	cookie_io_functions_t functions = { .write = log_write };
	FILE *stream = fopencookie(NULL, "w", functions);
	if (stream == NULL)
		return -ENOMEM;
	setvbuf(stream, NULL, _IOLBF, BUFSIZ);
	rte_openlog_stream(stream);
	return rte_eal_init(argc, argv) < 0 ? -rte_errno : 0;
}

const char *shim_version(void)
{
	return rte_version();
}

/* Not before everything earlier has finished, stores included: a burst pays for what it leaves behind. */
uint64_t shim_cycles(void)
{
	return rte_rdtsc_precise();
}

uint64_t shim_cycles_per_second(void)
{
	return rte_get_tsc_hz();
}

/* Pools of buffers. */

int shim_pool_new(const char *name, unsigned int count, unsigned int cache, uint16_t room, struct rte_mempool **pool)
{
	if (room > UINT16_MAX - RTE_PKTMBUF_HEADROOM)
		return -EINVAL;
	*pool = rte_pktmbuf_pool_create(name, count, cache, 0, RTE_PKTMBUF_HEADROOM + room, SOCKET_ID_ANY);
	return *pool == NULL ? -rte_errno : 0;
}

/* Where all of its buffers are home; otherwise it stays, for who still has some. */
void shim_pool_free(struct rte_mempool *pool)
{
	if (rte_mempool_full(pool))
		rte_mempool_free(pool);
}

unsigned int shim_pool_available(const struct rte_mempool *pool)
{
	return rte_mempool_avail_count(pool);
}

/* Frames. */

int shim_frames_alloc(struct rte_mempool *pool, struct rte_mbuf **frames, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, frames, count);
}

void shim_frames_free(struct rte_mbuf **frames, unsigned int count)
{
	rte_pktmbuf_free_bulk(frames, count);
}

uint32_t shim_frame_len(const struct rte_mbuf *frame)
{
	return rte_pktmbuf_pkt_len(frame);
}

/* Gives a frame of one segment another length; what is new of it has whatever content was there. */
int shim_frame_set_len(struct rte_mbuf *frame, uint16_t len)
{
	if (frame->nb_segs != 1 || len > frame->buf_len - frame->data_off)
		return -EMSGSIZE;
	frame->data_len = len;
	frame->pkt_len = len;
	return 0;
}

/* The same, and where it lies then; NULL where it does not fit. */
void *shim_frame_lay(struct rte_mbuf *frame, uint16_t len)
{
	return shim_frame_set_len(frame, len) == 0 ? rte_pktmbuf_mtod(frame, void *) : NULL;
}

/* Where a frame lies: as it is, or where it has several segments as a copy in `room`, NULL where that is too short. */
const void *shim_frame_bytes(const struct rte_mbuf *frame, void *room, uint32_t room_len, uint32_t *len)
{
	*len = rte_pktmbuf_pkt_len(frame);
	return *len <= room_len ? rte_pktmbuf_read(frame, 0, *len, room) : NULL;
}

/* Within the first segment. */
int shim_frame_write(struct rte_mbuf *frame, uint16_t offset, const void *from, uint16_t len)
{
	if (offset > frame->data_len || len > frame->data_len - offset)
		return -EMSGSIZE;
	memcpy(rte_pktmbuf_mtod_offset(frame, char *, offset), from, len);
	return 0;
}

/* Across segments. */
int shim_frame_read(const struct rte_mbuf *frame, uint32_t offset, void *into, uint32_t len)
{
	const void *found = rte_pktmbuf_read(frame, offset, len, into);
	if (found == NULL)
		return -EMSGSIZE;
	if (found != into)
		memcpy(into, found, len);
	return 0;
}

/* Copies the first segments of as many frames as both have, cut to what there is room for. */
void shim_frames_copy(struct rte_mbuf **into, struct rte_mbuf **from, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		uint16_t len = RTE_MIN(from[i]->data_len, into[i]->buf_len - into[i]->data_off);
		memcpy(rte_pktmbuf_mtod(into[i], void *), rte_pktmbuf_mtod(from[i], void *), len);
	}
}

/* Ports. */

/* How many ports a device has; the last of them. */
static unsigned int find_ports(const char *device, uint16_t *port)
{
	uint16_t each;
	unsigned int found = 0;
	RTE_ETH_FOREACH_DEV(each) {
		struct rte_eth_dev_info info;
		if (rte_eth_dev_info_get(each, &info) == 0 && strcmp(rte_dev_name(info.device), device) == 0) {
			*port = each;
			found++;
		}
	}
	return found;
}

/* A device of any bus that there is a driver for, by its devargs. */
int shim_device_add(const char *devargs, uint16_t *port)
{
	struct rte_devargs parsed;
	int error = rte_devargs_parse(&parsed, devargs);
	if (error != 0)
		return error;
	/* DPDK says so, too, but not without harm to the device. */
	error = find_ports(parsed.name, port) > 0 ? -EEXIST : rte_dev_probe(devargs);
	if (error == 0 && find_ports(parsed.name, port) != 1) {
		rte_eal_hotplug_remove(rte_bus_name(parsed.bus), parsed.name);
		error = -ENODEV;
	}
	rte_devargs_reset(&parsed);
	return error <= 0 ? error : -ENODEV;
}

int shim_device_remove(const char *devargs)
{
	struct rte_devargs parsed;
	int error = rte_devargs_parse(&parsed, devargs);
	if (error != 0)
		return error;
	error = rte_eal_hotplug_remove(rte_bus_name(parsed.bus), parsed.name);
	rte_devargs_reset(&parsed);
	return error;
}

/* One queue each way, of these sizes as far as the driver has them. */
int shim_port_start(uint16_t port, uint16_t receive_size, uint16_t transmit_size, struct rte_mempool *pool)
{
	struct rte_eth_conf conf;
	memset(&conf, 0, sizeof(conf));
	int error = rte_eth_dev_configure(port, 1, 1, &conf);
	if (error == 0)
		error = rte_eth_dev_adjust_nb_rx_tx_desc(port, &receive_size, &transmit_size);
	if (error == 0)
		error = rte_eth_rx_queue_setup(port, 0, receive_size, SOCKET_ID_ANY, NULL, pool);
	if (error == 0)
		error = rte_eth_tx_queue_setup(port, 0, transmit_size, SOCKET_ID_ANY, NULL);
	if (error == 0)
		error = rte_eth_dev_start(port);
	return error;
}

/* Whatever its address. A driver that cannot say so has nothing to choose from. */
int shim_port_take_all(uint16_t port)
{
	int error = rte_eth_promiscuous_enable(port);
	return error == -ENOTSUP ? 0 : error;
}

/* Whether the device has been taken out. */
int shim_port_is_removed(uint16_t port)
{
	return rte_eth_dev_is_removed(port);
}

int shim_port_stop(uint16_t port)
{
	return rte_eth_dev_stop(port);
}

int shim_port_link_is_up(uint16_t port)
{
	struct rte_eth_link link;
	memset(&link, 0, sizeof(link));
	int error = rte_eth_link_get_nowait(port, &link);
	return error != 0 ? error : link.link_status == RTE_ETH_LINK_UP;
}

/* Received and transmitted: frames, bytes; missed, errors. */
int shim_port_counters(uint16_t port, uint64_t counters[6])
{
	struct rte_eth_stats stats;
	int error = rte_eth_stats_get(port, &stats);
	if (error != 0)
		return error;
	counters[0] = stats.ipackets;
	counters[1] = stats.ibytes;
	counters[2] = stats.opackets;
	counters[3] = stats.obytes;
	counters[4] = stats.imissed + stats.rx_nombuf;
	counters[5] = stats.ierrors + stats.oerrors;
	return 0;
}

uint16_t shim_port_receive(uint16_t port, struct rte_mbuf **frames, uint16_t count)
{
	return rte_eth_rx_burst(port, 0, frames, count);
}

uint16_t shim_port_transmit(uint16_t port, struct rte_mbuf **frames, uint16_t count)
{
	return rte_eth_tx_burst(port, 0, frames, count);
}
