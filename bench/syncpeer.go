package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/pkg/connsync"
)

// The environment of this program when it has started itself as the peer of a
// director: a process of its own, so that what each of the two costs can be told
// apart. It keeps nothing: it would have the cache that the director has for itself
// where the two are two machines.
const peerPort = "LVX_BENCH_PEER_PORT"

// toldPeer is a director in another process that reads what it is told of.
type toldPeer struct {
	mesh    *connsync.Mesh // of the director that tells
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	cancel  context.CancelFunc
	running sync.WaitGroup
	stopped func() // news
}

// startTelling starts a peer and has a director tell it of its connections, outside
// of the namespace that the calling thread may be in.
func startTelling(ctx context.Context, teller connsync.Backend) (p *toldPeer, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p, err = beginTelling(ctx, teller)
	}()
	<-done
	return p, err
}

func beginTelling(ctx context.Context, teller connsync.Backend) (*toldPeer, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &toldPeer{cmd: exec.Command("/proc/self/exe")}
	d, inSync := director{teller, netip.MustParseAddr(secondAddr)}, make(chan struct{})
	isInSync := sync.OnceFunc(func() { close(inSync) })
	if p.mesh, err = d.mesh(netip.MustParseAddr(firstAddr), port, func() {
		if p.mesh.InSync() {
			isInSync()
		}
	}); err != nil {
		return nil, err
	}
	p.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", peerPort, port))
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("peer: %w", err)
	}
	ctx, p.cancel = context.WithCancel(ctx)
	_, p.stopped = teller.TellNews(p.mesh.Publish)
	p.running.Go(func() { _ = p.mesh.Run(ctx) })
	select {
	case <-inSync:
	case <-time.After(30 * time.Second):
		return nil, errors.Join(errors.New("the peer is not in sync after 30 s"), p.stop())
	}
	return p, p.mesh.Flush(ctx)
}

// spent is how much CPU time the peer has used, and how many entries it has read.
func (p *toldPeer) spent() (cpu time.Duration, read uint64, err error) {
	if _, err := fmt.Fprintln(p.in); err != nil {
		return 0, 0, fmt.Errorf("peer: %w", err)
	}
	if _, err := fmt.Fscanln(p.out, &cpu, &read); err != nil {
		return 0, 0, fmt.Errorf("peer: %w", err)
	}
	return cpu, read, nil
}

func (p *toldPeer) stop() error {
	p.stopped()
	_ = p.in.Close()
	err := p.cmd.Wait()
	p.cancel()
	p.running.Wait()
	return err
}

// bePeer is the peer's process, until its input ends.
func bePeer(ctx context.Context) (status int) {
	if err := takeFrom(ctx, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench: peer:", err)
		return 1
	}
	return 0
}

// nobody is a table that takes what it is told of and keeps nothing.
type nobody struct{}

func (nobody) Walk(context.Context, func(*connsync.Batch) error) error { return nil }
func (nobody) Absorb(*connsync.Batch) (int, error)                     { return 0, nil }
func (nobody) ChangedRows() []connsync.Rows                            { return nil }
func (nobody) AbsorbRows(connsync.Rows)                                {}
func (nobody) Missed() uint64                                          { return 0 }

// takeFrom reads what a director tells of until in ends, and answers each line of it
// with what that has cost until then.
func takeFrom(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	port, err := strconv.ParseUint(os.Getenv(peerPort), 10, 16)
	if err != nil {
		return err
	}
	mesh, err := director{nobody{}, netip.MustParseAddr(firstAddr)}.mesh(netip.MustParseAddr(secondAddr), uint16(port), func() {})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- mesh.Run(ctx) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-done)
	}()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if _, err := fmt.Fprintln(out, processTime().Nanoseconds(), mesh.Status()[0].Received); err != nil {
			return err
		}
	}
	return lines.Err()
}
