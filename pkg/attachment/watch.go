package attachment

import (
	"context"
	"fmt"
	"os"
	"syscall"
)

// Watch tells of every record that comes or goes, and of every Begin that ends.
// It first tells once, when it listens. It makes the directory, so that there
// is one to watch before the first pod. It blocks until ctx ends, and returns
// ctx.Err() or the reason why it can't go on. Telling never blocks: one word
// that nobody has taken yet stands for all.
func (d Dir) Watch(ctx context.Context, changed chan<- struct{}) error {
	err := d.watch(ctx, changed)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("watch the attachments in %s: %w", string(d), err)
}

func (d Dir) watch(ctx context.Context, changed chan<- struct{}) error {
	if err := os.MkdirAll(string(d), dirMode); err != nil {
		return err
	}
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), "inotify")
	defer file.Close()
	const events = syscall.IN_CLOSE_WRITE | syscall.IN_MOVED_TO | syscall.IN_DELETE | syscall.IN_ONLYDIR
	if _, err := syscall.InotifyAddWatch(fd, string(d), events|syscall.IN_DELETE_SELF|syscall.IN_MOVE_SELF); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.Close() })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		select {
		case changed <- struct{}{}:
		default:
		}
		// What it says doesn't matter, unless the directory itself is gone: then
		// it can't be read again.
		n, err := file.Read(buf)
		if err != nil {
			return err
		}
		if _, err := os.Stat(string(d)); err != nil || n == 0 {
			return fmt.Errorf("the directory went away: %w", err)
		}
	}
}
