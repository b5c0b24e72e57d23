package connsync

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// numberOf is the number that an environment variable gives, or another one.
func numberOf(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		t.Fatalf("%s=%s: not a number from 0", name, text)
	}
	return n
}

// mutate changes some bytes of b, cuts it, or repeats a part of it.
func mutate(r *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	for range 1 + r.IntN(4) {
		if len(b) == 0 {
			return []byte{byte(r.Uint32())}
		}
		at := r.IntN(len(b))
		switch r.IntN(5) {
		case 0:
			b = b[:at]
		case 1:
			b = append(b, b[at:]...)
		case 2:
			b[at] ^= 1 << r.IntN(8)
		case 3:
			b[at] = byte(r.Uint32())
		case 4: // lengths and counts near their limits
			b[at] = []byte{0, 1, 0x7f, 0x80, 0xff}[r.IntN(5)]
		}
	}
	return b
}

// Every captured datagram, every kind of frame and a listing, changed at
// random: nothing is read beyond its bounds, and what is read can be written
// again. A failure names the seed of its input; LVX_SYNC_INPUTS is how many there
// are, LVX_SYNC_SEED the first.
func TestMutatedInputs(t *testing.T) {
	var datagrams [][]byte
	for _, c := range captured {
		datagrams = append(datagrams, unhex(t, c.hex))
	}
	entry, err := appendEntry(nil, new(entryOf("172.16.0.1:1")))
	if err != nil {
		t.Fatal(err)
	}
	batch, err := batchFrames(BatchOf(someEntries(6)...))
	if err != nil {
		t.Fatal(err)
	}
	frames := [][]byte{
		batch[0].bytes,
		frameOf(frameEntries, append(bytes.Clone(entry), entry...)...), frameOf(frameSnapshot, 1),
		frameOf(frameAck, 0, 0, 0, 0, 0, 0, 0, 1), frameOf(frameAsk, 0, 0, 0, 0, 0, 0, 0, 1), frameOf(frameAgain),
		frameOf(frameRows, appendRows(nil, new(someRows()))...),
		frameOf(frameDigest, appendDigests(nil, []Digest{{"web", 1}})...),
	}
	const line = "TCP AC100001 03E9 0A000064 0050 0A000005 0050 ESTABLISHED     899\n"
	first, count := numberOf(t, "LVX_SYNC_SEED", 0), numberOf(t, "LVX_SYNC_INPUTS", 100_000)
	begin := time.Now()
	for seed := first; seed < first+count; seed++ {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		func() {
			defer func() {
				if p := recover(); p != nil {
					t.Fatalf("seed %d: %v", seed, p)
				}
			}()
			switch seed % 4 {
			case 0, 1:
				checkDatagram(t, seed, mutate(r, datagrams[r.IntN(len(datagrams))]))
			case 2:
				b := mutate(r, bytes.Join([][]byte{frames[r.IntN(len(frames))], frames[r.IntN(len(frames))]}, nil))
				s := newSession(fedConn{Reader: bytes.NewReader(b)}, &countTable{}, func([]Digest) {}, func() {})
				s.unacked = []time.Time{begin}
				if s.read() == nil {
					t.Fatalf("seed %d: a session went on behind its end", seed)
				}
			default:
				_, _, _ = ReadProc(bytes.NewReader(mutate(r, []byte(line+line)))) // it must return
			}
		}()
	}
	t.Logf("%d inputs in %s", count, time.Since(begin).Round(time.Millisecond))
}

func checkDatagram(t *testing.T, seed int, b []byte) {
	t.Helper()
	records, header, _ := Parse(nil, b)
	if 24*len(records) > len(b) {
		t.Fatalf("seed %d: %d records of %d bytes", seed, len(records), len(b))
	}
	for _, r := range records {
		again, _, err := Parse(nil, pack(t, header, []Record{r}))
		if err != nil || len(again) != 1 || again[0].Client != r.Client || again[0].Real != r.Real || again[0].State != r.State {
			t.Fatalf("seed %d: %+v, %v (%+v)", seed, again, err, r)
		}
	}
}
