package vm

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A tree is a file system to be: what is at each path of an initramfs. Parent
// directories exist by themselves.
type tree map[string]entry

// An entry is a directory, a symbolic link or a regular file.
type entry struct {
	mode   fs.FileMode // type and permissions
	data   []byte      // of a file that is not on the host, or a link's target
	source string      // the host's file, if data is nil
	size   int64
}

// Types of a Unix file, as cpio writes them (stat.h).
const (
	unixDir  = 0o040000
	unixLink = 0o120000
	unixFile = 0o100000
)

func (t tree) dir(name string) {
	for ; name != "/" && name != "."; name = path.Dir(name) {
		if _, ok := t[name]; !ok {
			t[name] = entry{mode: fs.ModeDir | 0o755}
		}
	}
}

func (t tree) put(name string, mode fs.FileMode, data []byte) {
	t.dir(path.Dir(name))
	t[name] = entry{mode: mode, data: data, size: int64(len(data))}
}

func (t tree) link(name, target string) {
	t.put(name, fs.ModeSymlink|0o777, []byte(target))
}

// add copies a host's file or directory to name, following links.
func (t tree) add(name, host string) error {
	info, err := os.Stat(host)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		t.dir(path.Dir(name))
		t[name] = entry{mode: info.Mode().Perm(), source: host, size: info.Size()}
		return nil
	}
	t.dir(name)
	list, err := os.ReadDir(host)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := t.add(path.Join(name, e.Name()), filepath.Join(host, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// write writes t as a "newc" archive (kernel:
// Documentation/driver-api/early-userspace/buffer-format.rst). The result
// depends on t alone: no times, no owners, sorted paths.
func (t tree) write(w io.Writer) error {
	bw := bufio.NewWriterSize(w, 1<<20)
	for i, name := range slices.Sorted(maps.Keys(t)) {
		e := t[name]
		writeHeader(bw, i+1, strings.TrimPrefix(name, "/"), e.unixMode(), e.size)
		if err := e.copy(bw); err != nil {
			return err
		}
		pad(bw, e.size)
	}
	writeHeader(bw, 0, "TRAILER!!!", 0, 0)
	return bw.Flush()
}

// writeHeader writes 110 bytes of hexadecimal fields and the name. Errors
// stay in w until Flush.
func writeHeader(w *bufio.Writer, ino int, name string, mode uint32, size int64) {
	fmt.Fprintf(w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		ino, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	pad(w, int64(110+len(name)+1))
}

// pad fills up to a multiple of four.
func pad(w *bufio.Writer, size int64) {
	for ; size%4 != 0; size++ {
		_ = w.WriteByte(0)
	}
}

func (e entry) unixMode() uint32 {
	mode := uint32(e.mode.Perm())
	switch {
	case e.mode&fs.ModeDir != 0:
		return unixDir | mode
	case e.mode&fs.ModeSymlink != 0:
		return unixLink | mode
	}
	return unixFile | mode
}

func (e entry) copy(w io.Writer) error {
	if e.source == "" {
		_, err := w.Write(e.data)
		return err
	}
	f, err := os.Open(e.source)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(w, f)
	if err == nil && n != e.size {
		err = fmt.Errorf("%s changed while it was read", e.source)
	}
	return err
}
