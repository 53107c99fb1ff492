// Package calls counts what a node's CNI plugin was asked to do, and how long it
// took. The plugin is a process per call and serves nobody, so it adds to a
// small file, which whoever shows metrics reads.
//
// The file, .calls/counters, lies below the records of attachments, in a
// directory of its own so that who watches those is not woken. It has a fixed
// form (little endian):
//
//	"weftcni1", then per verb, in the order of Verbs, eight bytes each:
//	calls that succeeded, calls that failed, nanoseconds of all,
//	and how many took at most the first of Bounds, the second, …, longer
//
// It counts since the file was made, as counters do: a lost or damaged one
// begins at zero. Nothing is synced to the disk. It refuses to know why a call
// failed; the runtime's log has that.
package calls

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

const (
	subdir = ".calls"
	name   = subdir + "/counters"
	magic  = "weftcni1"
	word   = 8

	dirMode, fileMode = 0o700, 0o600
)

// Verbs are those of CNI that are counted.
func Verbs() []string { return []string{"ADD", "DEL", "CHECK", "GC", "STATUS"} }

// Bounds are the upper bounds of the counts in Calls.Took but the last.
func Bounds() []time.Duration {
	ms := time.Millisecond
	return []time.Duration{
		ms, 2 * ms, 5 * ms, 10 * ms, 20 * ms, 50 * ms, 100 * ms, 200 * ms, 500 * ms, 1000 * ms, 5000 * ms,
	}
}

// Calls is what is known of the calls of one verb.
type Calls struct {
	Done, Failed uint64
	Sum          time.Duration // of all, from the plugin's start to its answer
	// Took is how many of all took at most each of Bounds, but longer than the
	// one before; the last is how many took longer.
	Took []uint64
}

// The words of a verb: done, failed, sum, and the counts.
const (
	wordDone = iota
	wordFailed
	wordSum
	wordTook
)

func words() int { return wordTook + len(Bounds()) + 1 }

func size() int { return len(magic) + len(Verbs())*words()*word }

// Count adds a call to the file in the directory. A verb that is not counted is
// none; no directory is an error, as nothing was ever attached then. It takes
// six calls to the kernel and a lock that is held for three of them.
func Count(dir, verb string, failed bool, took time.Duration) error {
	v := slices.Index(Verbs(), verb)
	if v < 0 {
		return nil
	}
	const flags = syscall.O_RDWR | syscall.O_CREAT
	fd, err := open(dir, flags, syscall.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
		_ = syscall.Mkdir(filepath.Join(dir, subdir), dirMode) // the next open tells
		fd, err = open(dir, flags, syscall.LOCK_EX)
	}
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }() // unlocks
	b, err := load(fd)
	if err != nil {
		b = append([]byte(magic), make([]byte, size()-len(magic))...)
		if err := syscall.Ftruncate(fd, int64(size())); err != nil {
			return &fs.PathError{Op: "truncate", Path: filepath.Join(dir, name), Err: err}
		}
	}
	of := b[len(magic)+v*words()*word:][:words()*word]
	outcome := wordDone
	if failed {
		outcome = wordFailed
	}
	add(of, outcome, 1)
	add(of, wordSum, uint64(max(took, 0)))
	bucket, _ := slices.BinarySearch(Bounds(), took)
	add(of, wordTook+bucket, 1)
	// In one write, which a kill does not divide.
	if _, err := syscall.Pwrite(fd, b, 0); err != nil {
		return &fs.PathError{Op: "write", Path: filepath.Join(dir, name), Err: err}
	}
	return nil
}

func add(of []byte, i int, n uint64) {
	at := of[i*word:]
	binary.LittleEndian.PutUint64(at, binary.LittleEndian.Uint64(at)+n)
}

// Read gives the calls per verb. Where nothing was counted yet it is all zero; a
// file that is damaged is an error.
func Read(dir string) (map[string]Calls, error) {
	var b []byte
	fd, err := open(dir, syscall.O_RDONLY, syscall.LOCK_SH)
	if err == nil {
		b, err = load(fd)
		_ = syscall.Close(fd)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errEmpty):
		b = make([]byte, size())
	case err != nil:
		return nil, fmt.Errorf("read the CNI plugin's counters in %s: %w", filepath.Join(dir, name), err)
	}
	out := map[string]Calls{}
	for v, verb := range Verbs() {
		of := b[len(magic)+v*words()*word:]
		get := func(i int) uint64 { return binary.LittleEndian.Uint64(of[i*word:]) }
		c := Calls{Done: get(wordDone), Failed: get(wordFailed), Sum: time.Duration(get(wordSum))}
		for i := range len(Bounds()) + 1 {
			c.Took = append(c.Took, get(wordTook+i))
		}
		out[verb] = c
	}
	return out, nil
}

func open(dir string, flags, lock int) (int, error) {
	path := filepath.Join(dir, name)
	fd, err := syscall.Open(path, flags|syscall.O_CLOEXEC, fileMode)
	if err != nil {
		return fd, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	for {
		if err = syscall.Flock(fd, lock); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return fd, errors.Join(&fs.PathError{Op: "lock", Path: path, Err: err}, syscall.Close(fd))
	}
	return fd, nil
}

var (
	errEmpty   = errors.New("it was just made")
	errDamaged = errors.New("it is not of the form that this program knows")
)

func load(fd int) ([]byte, error) {
	b := make([]byte, size()+1) // one more, to see that there is none
	n, err := syscall.Pread(fd, b, 0)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errEmpty
	}
	if n != size() || string(b[:len(magic)]) != magic {
		return nil, errDamaged
	}
	return b[:n], nil
}
