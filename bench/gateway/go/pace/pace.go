// Package pace wakes goroutines at a time, to some ten microseconds. Go's own timers round up to a millisecond where
// nothing else happens, which is more than what is measured here. Linux only.
package pace

import (
	"container/heap"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	clockMonotonic = 1
	nonBlocking    = syscall.O_NONBLOCK | syscall.O_CLOEXEC
)

// Clock wakes whoever waits, in the order of their deadlines, from one timerfd that the netpoller watches.
type Clock struct {
	mutex sync.Mutex
	waits waiting
	timer *os.File
	fd    uintptr
}

// NewClock starts a clock.
func NewClock() (*Clock, error) {
	fd, _, failed := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, clockMonotonic, nonBlocking, 0)
	if failed != 0 {
		return nil, os.NewSyscallError("timerfd_create", failed)
	}
	clock := &Clock{timer: os.NewFile(fd, "timer"), fd: fd}
	go clock.run()
	return clock, nil
}

// Until blocks until deadline.
func (c *Clock) Until(deadline time.Time) {
	if time.Until(deadline) <= 0 {
		return
	}
	one := &wait{deadline: deadline, done: make(chan struct{})}
	c.mutex.Lock()
	heap.Push(&c.waits, one)
	if c.waits[0] == one {
		c.arm(time.Until(deadline))
	}
	c.mutex.Unlock()
	<-one.done
}

func (c *Clock) run() {
	expirations := make([]byte, 8)
	for {
		if _, err := c.timer.Read(expirations); err != nil {
			panic(err)
		}
		c.wake()
	}
}

func (c *Clock) wake() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	now := time.Now()
	for len(c.waits) > 0 {
		if remaining := c.waits[0].deadline.Sub(now); remaining > 0 {
			c.arm(remaining)
			return
		}
		close(heap.Pop(&c.waits).(*wait).done)
	}
}

// arm lets the timer expire once, after remaining. Zero would disarm it.
func (c *Clock) arm(remaining time.Duration) {
	specification := [4]int64{0, 0, 0, max(1, int64(remaining))}
	specification[2], specification[3] = specification[3]/1e9, specification[3]%1e9
	pointer := unsafe.Pointer(&specification)
	if _, _, failed := syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, c.fd, 0, uintptr(pointer), 0, 0, 0); failed != 0 {
		panic(os.NewSyscallError("timerfd_settime", failed))
	}
}

type wait struct {
	deadline time.Time
	done     chan struct{}
}

type waiting []*wait

func (w waiting) Len() int           { return len(w) }
func (w waiting) Less(i, j int) bool { return w[i].deadline.Before(w[j].deadline) }
func (w waiting) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }
func (w *waiting) Push(one any)      { *w = append(*w, one.(*wait)) }

func (w *waiting) Pop() any {
	old := *w
	last := old[len(old)-1]
	*w = old[:len(old)-1]
	return last
}
