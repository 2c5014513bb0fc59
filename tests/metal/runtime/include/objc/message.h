// tests/metal/runtime/include/objc/message.h: the three ways to send a message;
// callers cast them to the method's own type.
#pragma once

#include <objc/runtime.h>

extern "C" {
void objc_msgSend();
void objc_msgSend_stret();
void objc_msgSend_fpret();
}
