package attachment

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// Busy tells whether somebody who called Begin or Claim for the record still acts.
func (d Dir) Busy(k Key) bool {
	f, err := os.Open(d.path(k))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(flock(f, syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// Hold reads a record, and until release is called, Claim waits. It is for who mends what
// the record is of. Not ok: the record is gone or can't be read, or somebody is at work
// on it. It doesn't block.
func (d Dir) Hold(k Key) (a Attachment, release func(), ok bool) {
	f, err := d.lock(k, syscall.LOCK_SH)
	if err != nil {
		return Attachment{}, nil, false
	}
	if a, err = d.Get(k); err != nil {
		_ = f.Close()
		return Attachment{}, nil, false
	}
	return a, func() { _ = f.Close() }, true
}

// claimPause is between two attempts to get a lock.
const claimPause = time.Millisecond

// Claim is for who takes away what a record is of, and the record at last: until release
// is called others find it Busy. It waits for those who Hold it, or who Claimed it before,
// patience at most, and then does without: a holder that hangs must not keep pods. No
// record is nothing to wait for.
func (d Dir) Claim(k Key, patience time.Duration) (release func()) {
	for end := time.Now().Add(patience); ; <-time.After(claimPause) {
		f, err := d.lock(k, syscall.LOCK_EX)
		if err == nil {
			return func() { _ = f.Close() }
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(end) {
			return func() {}
		}
	}
}

// lock opens a record's file and locks it, or gives EWOULDBLOCK. Closing it unlocks.
func (d Dir) lock(k Key, how int) (*os.File, error) {
	f, err := os.Open(d.path(k))
	if err != nil {
		return nil, err
	}
	if err = flock(f, how|syscall.LOCK_NB); err == nil {
		var locked, now os.FileInfo
		if locked, err = f.Stat(); err == nil {
			now, err = os.Stat(d.path(k))
		}
		if err == nil && !os.SameFile(locked, now) {
			err = syscall.EWOULDBLOCK // another took its place meanwhile
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
