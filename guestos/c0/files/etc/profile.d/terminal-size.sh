# At login on the device's console; after a change of the window's size, type `resize`.
[ "$(tty)" = /dev/console ] && resize
