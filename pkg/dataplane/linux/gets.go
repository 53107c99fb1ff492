package linux

import (
	"cmp"
	"slices"
)

// getBatch is how many answers wait in the socket at the most, of a KiB each.
const getBatch = 64

// gets asks for each key by a message of its own, many in one system call, and hands
// over the one answer that each has: what was asked for, or an error. take must not
// send anything; its first error is returned in the end.
func gets[K any](k *Kernel, keys []K, encode func(*encoder, K), take func(K, message) error) error {
	var e encoder
	for some := range slices.Chunk(keys, getBatch) {
		e.reset()
		for _, key := range some {
			encode(&e, key)
		}
		var failed error
		err := k.exchange(&e, func(i int, m message) bool {
			failed = cmp.Or(failed, take(some[i], m))
			return i == len(some)-1
		})
		if err = cmp.Or(err, failed); err != nil {
			return err
		}
	}
	return nil
}
