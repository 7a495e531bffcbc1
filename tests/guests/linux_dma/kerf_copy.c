// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copies memory by channels of Intel DSA, from the module's start to the end of its init, and compares what arrived.
 *
 * A lane is one channel with a source and a destination of its own. In each round every lane has one copy under way.
 */
#include <linux/completion.h>
#include <linux/crc32.h>
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/dmaengine.h>
#include <linux/module.h>
#include <linux/slab.h>

#undef pr_fmt
#define pr_fmt(text) KBUILD_MODNAME ": " text

#define LARGEST (16 * 1024)
/* Bytes before and after a destination that must stay as they are. */
#define GUARD 64
/* Sources and destinations begin within so many bytes. */
#define PLACES 4096
#define BUFFER (GUARD + PLACES + LARGEST + GUARD)
#define PATIENCE (30 * HZ)

static unsigned int copies = 1000;
module_param(copies, uint, 0444);
MODULE_PARM_DESC(copies, "copies of each channel");
static unsigned int channels = 1;
module_param(channels, uint, 0444);
MODULE_PARM_DESC(channels, "channels to use at the same time");
static unsigned int right;
module_param(right, uint, 0444);
MODULE_PARM_DESC(right, "copies that were right");

struct lane {
	struct dma_chan *channel;
	u8 *source, *destination;
	/* Of the copy under way. */
	size_t from, to, size;
	u8 rest;
	dma_addr_t source_address, destination_address;
	struct dma_async_tx_descriptor *descriptor;
	struct completion done;
	enum dmaengine_tx_result result;
	/* The buffers may still be written to: they are left alone for ever. */
	bool lost;
};

/* Marsaglia's xorshift: the same copies in every run. */
static u64 state = 0x9e3779b97f4a7c15;

static u64 random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void finished(void *context, const struct dmaengine_result *result)
{
	struct lane *lane = context;

	lane->result = result->result;
	complete(&lane->done);
}

/* What is to be copied, and from where to where: small sizes are as frequent as large ones. */
static void choose(struct lane *lane)
{
	size_t at;
	u64 word = 0;

	lane->size = 1 + random() % (1 << random() % 15);
	lane->from = random() % PLACES;
	lane->to = GUARD + random() % PLACES;
	lane->rest = random();
	for (at = 0; at < lane->size; at++, word >>= 8) {
		if (at % sizeof(word) == 0)
			word = random();
		lane->source[lane->from + at] = word;
	}
	memset(lane->destination + lane->to - GUARD, lane->rest, lane->size + 2 * GUARD);
}

static void unmap(struct lane *lane)
{
	struct device *device = lane->channel->device->dev;

	dma_unmap_single(device, lane->source_address, BUFFER, DMA_TO_DEVICE);
	dma_unmap_single(device, lane->destination_address, BUFFER, DMA_BIDIRECTIONAL);
}

static int submit(struct lane *lane)
{
	struct device *device = lane->channel->device->dev;

	choose(lane);
	lane->source_address = dma_map_single(device, lane->source, BUFFER, DMA_TO_DEVICE);
	if (dma_mapping_error(device, lane->source_address))
		return -ENOMEM;
	lane->destination_address = dma_map_single(device, lane->destination, BUFFER, DMA_BIDIRECTIONAL);
	if (dma_mapping_error(device, lane->destination_address)) {
		dma_unmap_single(device, lane->source_address, BUFFER, DMA_TO_DEVICE);
		return -ENOMEM;
	}
	reinit_completion(&lane->done);
	lane->descriptor = dmaengine_prep_dma_memcpy(lane->channel, lane->destination_address + lane->to,
						     lane->source_address + lane->from, lane->size,
						     DMA_PREP_INTERRUPT | DMA_CTRL_ACK);
	if (!lane->descriptor) {
		unmap(lane);
		return -EIO;
	}
	lane->descriptor->callback_result = finished;
	lane->descriptor->callback_param = lane;
	if (dma_submit_error(dmaengine_submit(lane->descriptor))) {
		lane->descriptor = NULL;
		unmap(lane);
		return -EIO;
	}
	dma_async_issue_pending(lane->channel);
	return 0;
}

static bool is_right(const struct lane *lane)
{
	const u8 *to = lane->destination + lane->to;

	return !memcmp(to, lane->source + lane->from, lane->size) &&
	       !memchr_inv(to - GUARD, lane->rest, GUARD) && !memchr_inv(to + lane->size, lane->rest, GUARD);
}

/* Waits for the copy under way and compares what it did. */
static int await(struct lane *lane)
{
	if (!wait_for_completion_timeout(&lane->done, PATIENCE)) {
		/* The channel's driver may not be able to take a descriptor back: it must not call a module that is gone. */
		lane->descriptor->callback_result = NULL;
		lane->descriptor = NULL;
		lane->lost = true;
		msleep(1000);
		return -ETIMEDOUT;
	}
	lane->descriptor = NULL;
	unmap(lane);
	if (lane->result != DMA_TRANS_NOERROR)
		return -EIO;
	return is_right(lane) ? 0 : -EBADMSG;
}

static int run(struct lane *lanes)
{
	unsigned int round, index;
	u32 crc = ~0;
	u64 bytes = 0;
	int error = 0;

	for (round = 0; round < copies && !error; round++) {
		for (index = 0; index < channels && !error; index++)
			error = submit(&lanes[index]);
		/* Also after an error: what is under way has to end. */
		for (index = 0; index < channels; index++) {
			struct lane *lane = &lanes[index];
			int ended = lane->descriptor ? await(lane) : 0;

			if (ended)
				pr_err("%s, copy %u of %zu bytes, 0x%zx to 0x%zx: error %d\n", dma_chan_name(lane->channel),
				       round, lane->size, lane->from, lane->to, ended);
			else if (!error)
				right++;
			error = error ?: ended;
			bytes += lane->size;
			crc = crc32_le(crc, lane->destination + lane->to, lane->size);
		}
	}
	if (error) {
		pr_err("error %d after %u of %u copies\n", error, right, copies * channels);
		return error;
	}
	pr_info("%u of %u copies are right, %llu bytes, CRC-32 0x%08x\n", right, copies * channels, bytes, ~crc);
	return 0;
}

static bool is_dsa(struct dma_chan *channel, void *unused)
{
	return !strcmp(dev_driver_string(channel->device->dev), "idxd");
}

static int open_lane(struct lane *lane)
{
	dma_cap_mask_t mask;

	dma_cap_zero(mask);
	dma_cap_set(DMA_MEMCPY, mask);
	init_completion(&lane->done);
	lane->source = kmalloc(BUFFER, GFP_KERNEL);
	lane->destination = kmalloc(BUFFER, GFP_KERNEL);
	if (!lane->source || !lane->destination)
		return -ENOMEM;
	lane->channel = dma_request_channel(mask, is_dsa, NULL);
	return lane->channel ? 0 : -ENODEV;
}

static void close_lane(struct lane *lane)
{
	if (lane->channel)
		dma_release_channel(lane->channel);
	if (lane->lost)
		return;
	kfree(lane->source);
	kfree(lane->destination);
}

static int __init kerf_copy_init(void)
{
	struct lane *lanes;
	unsigned int index;
	int error = 0;

	if (!copies || !channels || copies > UINT_MAX / channels)
		return -EINVAL;
	lanes = kcalloc(channels, sizeof(*lanes), GFP_KERNEL);
	if (!lanes)
		return -ENOMEM;
	for (index = 0; index < channels && !error; index++) {
		error = open_lane(&lanes[index]);
		if (error)
			pr_err("no channel %u: error %d\n", index, error);
	}
	if (!error)
		error = run(lanes);
	for (index = 0; index < channels; index++)
		close_lane(&lanes[index]);
	kfree(lanes);
	return error;
}

static void __exit kerf_copy_exit(void)
{
}

module_init(kerf_copy_init);
module_exit(kerf_copy_exit);
MODULE_DESCRIPTION("copies memory by channels of Intel DSA and compares what arrived");
MODULE_LICENSE("GPL");
